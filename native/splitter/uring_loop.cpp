#include "splitter/uring_loop.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>
#include <system_error>
#include <utility>

#include "splitter/cpus.hpp"
#include "splitter/mapped_twice.hpp"

namespace kvfs::splitter {

namespace {

constexpr std::size_t kMostThreads = 64;
constexpr std::size_t kHeaderStride = 320;  // whole cache lines
static_assert(kHeaderStride >= sizeof(UringRequestHeader) && kHeaderStride % 64 == 0);

std::size_t round_up(std::size_t size, std::size_t unit) { return (size + unit - 1) / unit * unit; }

std::size_t share(std::size_t total, std::size_t parts, std::size_t index) { return total * index / parts; }

// Which worker serves a queue. Those of CPUs that are online are what there is to share out; the others come to nobody
// in particular.
std::vector<std::size_t> assign(std::size_t queues, const std::vector<int>& online, std::size_t workers) {
    std::vector<std::size_t> worker_of(queues);
    for (std::size_t queue = 0; queue < queues; ++queue) worker_of[queue] = queue % workers;
    for (std::size_t worker = 0; worker < workers; ++worker) {
        const std::size_t end = share(online.size(), workers, worker + 1);
        for (std::size_t i = share(online.size(), workers, worker); i < end; ++i) worker_of[online[i]] = worker;
    }
    return worker_of;
}

}  // namespace

// The headers and payloads of all entries.
class UringLoop::Memory {
public:
    Memory(std::size_t entries, std::size_t payload)
        : payload_(payload),
          headers_(round_up(entries * kHeaderStride, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)))),
          size_(headers_ + entries * payload) {
        device_ = map_twice(base_, size_);
    }
    ~Memory() {
        if (base_ != nullptr) munmap(base_, size_);
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    [[nodiscard]] UringRequestHeader& header(std::size_t entry) const {
        return *reinterpret_cast<UringRequestHeader*>(base_ + entry * kHeaderStride);
    }
    [[nodiscard]] std::span<std::byte> payload(std::size_t entry) const {
        return {base_ + headers_ + entry * payload_, payload_};
    }
    // The same at the address for devices.
    [[nodiscard]] std::span<std::byte> device_payload(std::size_t entry) const {
        return device_->memory().subspan(headers_ + entry * payload_, payload_);
    }
    [[nodiscard]] const std::shared_ptr<const Mapping>& device() const { return device_; }
    [[nodiscard]] std::size_t payload_size() const { return payload_; }
    void leave() { base_ = nullptr; }

private:
    std::size_t payload_;
    std::size_t headers_;
    std::size_t size_;
    std::byte* base_ = nullptr;
    std::shared_ptr<const Mapping> device_;
};

UringLoop::UringLoop(int fuse_fd, const UringOptions& options, std::unique_ptr<RequestLoop> device, RequestSink& sink,
                     Report report)
    : queues_(possible_cpus()), report_(std::move(report)), device_(std::move(device)) {
    std::vector<int> online = online_cpus();
    std::erase_if(online, [this](int cpu) { return static_cast<std::size_t>(cpu) >= queues_; });
    const std::vector<int> allowed = allowed_cpus();

    const std::size_t payload = round_up(std::max(options.largest_payload, kLeastPayload), 4096);
    const std::size_t in_use = std::max<std::size_t>(online.size(), 1);
    const std::size_t entries =
        std::clamp<std::size_t>(options.memory / (in_use * payload), 1, std::max(options.entries, 1U));
    const std::size_t wanted =
        options.threads > 0 ? options.threads : std::min({allowed.size(), online.size(), kMostThreads});
    const std::size_t workers = std::clamp<std::size_t>(wanted, 1, in_use);
    const std::vector<std::size_t> worker_of = assign(queues_, online, workers);

    std::vector<std::size_t> entries_of(queues_, 1);
    for (const int cpu : online) entries_of[cpu] = entries;
    for (const std::size_t count : entries_of) entry_count_ += count;

    memory_ = std::make_unique<Memory>(entry_count_, payload);
    entries_ = std::make_unique<UringEntry[]>(entry_count_);
    late_ = std::make_unique<LateAnswers>(fuse_fd);
    std::size_t next = 0;
    for (std::size_t index = 0; index < workers; ++index) {
        const std::size_t first = next;
        std::vector<int> cpus;
        for (std::size_t queue = 0; queue < queues_; ++queue) {
            if (worker_of[queue] != index) continue;
            next += entries_of[queue];
            const int cpu = static_cast<int>(queue);
            if (options.pinned && std::ranges::find(allowed, cpu) != allowed.end()) cpus.push_back(cpu);
        }
        workers_.push_back(std::make_unique<UringWorker>(fuse_fd, static_cast<unsigned>(index),
                                                         std::span(entries_.get() + first, next - first),
                                                         std::move(cpus), sink, *late_, report_));
        std::size_t entry = first;
        for (std::size_t queue = 0; queue < queues_; ++queue) {
            if (worker_of[queue] != index) continue;
            for (std::size_t i = 0; i < entries_of[queue]; ++i, ++entry) {
                entries_[entry].bind(*workers_.back(), static_cast<unsigned>(queue), memory_->header(entry),
                                     memory_->payload(entry), memory_->device_payload(entry), memory_->device());
            }
        }
    }
}

UringLoop::~UringLoop() {
    stop();
    // Where the connection still lives, the kernel may yet write a request here: rather lost than overwritten.
    if (late_ && late_->in_use()) memory_->leave();
}

void UringLoop::start() {
    std::promise<bool> verdict;
    const std::shared_future<bool> go = verdict.get_future().share();
    std::vector<std::future<int>> registered;
    try {
        for (const auto& worker : workers_) registered.push_back(worker->start(go));
    } catch (...) {
        verdict.set_value(false);
        late_->give_up_registration();
        stop();
        throw;
    }
    int error = 0;
    for (auto& answer : registered) {
        const int rc = answer.get();
        if (error == 0) error = rc;
    }
    verdict.set_value(error == 0);
    if (error == 0) {
        device_->start();
        return;
    }
    late_->give_up_registration();
    stop();
    throw std::system_error(-error, std::generic_category(), "FUSE over io_uring");
}

void UringLoop::stop() {
    for (const auto& worker : workers_) worker->ask_to_stop();
    for (const auto& worker : workers_) worker->join();
    device_->stop();
}

const LoopCounters& UringLoop::counters() const {
    const LoopCounters& of_device = device_->counters();
    std::uint64_t replies = 0;
    std::uint64_t refused = 0;
    std::uint64_t requests = 0;
    for (const auto& worker : workers_) {
        const LoopCounters& of_worker = worker->counters();
        // answers first: what is in hand must not come out negative
        replies += of_worker.replies.load(std::memory_order_relaxed);
        refused += of_worker.replies_refused.load(std::memory_order_relaxed);
        requests += of_worker.requests.load(std::memory_order_relaxed);
    }
    counters_.requests = requests + of_device.requests;
    counters_.replies = replies + of_device.replies;
    counters_.replies_refused = refused + of_device.replies_refused;
    counters_.in_hand = requests - std::min(requests, replies + refused) + of_device.in_hand;
    return counters_;
}

std::size_t UringLoop::memory() const { return entry_count_ * memory_->payload_size(); }

}  // namespace kvfs::splitter
