#include "policy/simulation.hpp"

#include <time.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "policy/min.hpp"

namespace kvfs::policy {
namespace {

constexpr std::uint64_t kBlockBytes = std::uint64_t{1} << 20;  // of a full block, as its length is told

constexpr std::int64_t kCompute = 50'000'000;  // ns

// Of this thread: on a busy machine the wall clock says nothing about a policy.
std::uint64_t cpu_ns() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

Simulation::Simulation(const Trace& trace, std::string_view policy, std::uint64_t capacity_blocks)
    : trace_(trace), capacity_(capacity_blocks), resident_(trace.ids()) {
    if (policy == "min") {
        future_ = std::make_unique<Future>(trace);
        policy_ = std::make_unique<Min>(*this, *future_);
    } else {
        policy_ = make_policy(policy, *this, {.capacity_bytes = capacity_});
    }
    if (capacity_ == 0) throw std::invalid_argument("expected a capacity of at least 1 block, found 0");
    if (policy_ == nullptr) throw std::invalid_argument("no such policy: " + std::string(policy));
}

Simulation::~Simulation() = default;

const std::vector<std::string_view>& Simulation::policy_names() {
    static const auto all = [] {
        auto known = names();
        known.emplace_back("min");
        return known;
    }();
    return all;
}

Key Simulation::key(ObjectId id) const {
    // splitmix64's finalizer (Steele, Lea, Flood, 2014)
    std::uint64_t x = (std::uint64_t{id} + 1) * 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

bool Simulation::step(std::size_t requests) {
    const auto& all = trace_.requests();
    const auto start = cpu_ns();
    const auto end = std::min<std::uint64_t>(all.size(), result_.requests + requests);
    while (result_.requests < end) run(all[result_.requests++]);
    result_.cpu_ns += cpu_ns() - start;
    return end < all.size();
}

void Simulation::run(const Trace::Request& request) {
    ids_.clear();
    for (const auto& part : trace_.runs(request)) {
        for (std::uint32_t block = 0; block < part.length; ++block) ids_.push_back(part.first + block);
    }
    result_.references += ids_.size();
    const auto first_miss = std::find_if(ids_.begin(), ids_.end(), [this](ObjectId id) { return !resident_[id]; });
    result_.prefix_hits += static_cast<std::uint64_t>(first_miss - ids_.begin());
    result_.hits += static_cast<std::uint64_t>(
        std::count_if(ids_.begin(), ids_.end(), [this](ObjectId id) { return resident_[id]; }));

    const Access access{.now_ns = request.now_ns, .client = request.client};
    if (future_ != nullptr) {
        // who knows the future knows what comes after all of this request before it evicts anything for it
        for (const auto id : ids_) future_->advance(id);
        for (const auto id : ids_) policy_->touched(id, access);
    }
    const Access computed{.now_ns = request.now_ns + kCompute, .client = request.client};
    for (auto id = ids_.begin(); id != ids_.end(); ++id) {
        if (resident_[*id]) {
            policy_->touched(*id, id < first_miss ? access : computed);
            continue;
        }
        if (id == first_miss) policy_->missed(key(*id), access);
        const bool last = id + 1 == ids_.end();
        policy_->admitted(*id, last ? static_cast<std::uint64_t>(request.tail * kBlockBytes) : kBlockBytes, computed);
        resident_[*id] = true;
        ++residents_;
        if (residents_ > capacity_) {
            victims_.clear();
            policy_->victims(residents_ - capacity_, {}, victims_);
            for (const auto victim : victims_) resident_[victim] = false;
            residents_ -= victims_.size();
        }
        result_.most_resident = std::max(result_.most_resident, residents_);
    }
}

Simulation::Result Simulation::result() const {
    auto out = result_;
    out.policy = policy_->statistics();
    return out;
}

}  // namespace kvfs::policy
