#include "warm/keeper.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

namespace kvfs::warm {
namespace {

// 150 ms of stalls within 2 s: the shortest window that a process without privileges may ask for.
constexpr std::string_view kTrigger = "some 150000 2000000";

constexpr int kLook = 1000;                // ms between looks at the headroom
constexpr std::chrono::seconds kCalm{10};  // without pressure, before the limit rises again

Descriptor open_trigger(const std::string& root) {
    Descriptor fd(open((root + "/proc/pressure/memory").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (fd && write(fd.get(), kTrigger.data(), kTrigger.size() + 1) < 0) return Descriptor();
    return fd;
}

}  // namespace

Keeper::Keeper(Headroom& headroom, const std::string& root, Duties duties)
    : headroom_(headroom),
      duties_(std::move(duties)),
      trigger_(open_trigger(root)),
      event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      calm_since_(std::chrono::steady_clock::now()) {
    if (!event_) throw std::system_error(errno, std::generic_category(), "eventfd");
    thread_ = std::thread([this] { run(); });
}

Keeper::~Keeper() { stop(); }

void Keeper::stop() {
    if (!thread_.joinable()) return;
    stop_.store(true, std::memory_order_release);
    poke();
    thread_.join();
}

void Keeper::wake() {
    // Either the keeper sees what there is to watch before it sleeps, or this sees it asleep.
    if (asleep_.exchange(false)) poke();
}

void Keeper::poke() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto rc = write(event_.get(), &one, sizeof one);  // fails only when it is readable anyway
}

void Keeper::run() {
    while (!stop_.load(std::memory_order_acquire)) {
        asleep_.store(true);
        const bool is_busy = duties_.is_busy();
        if (is_busy) asleep_.store(false);
        pollfd fds[2] = {{event_.get(), POLLIN, 0}, {trigger_.get(), POLLPRI, 0}};
        const int ready = poll(fds, 2, is_busy ? kLook : -1);
        if (ready < 0 && errno != EINTR) return;  // EFAULT, EINVAL, ENOMEM: nothing to watch with
        if ((fds[0].revents & POLLIN) != 0) {
            std::uint64_t count = 0;
            [[maybe_unused]] const auto rc = read(event_.get(), &count, sizeof count);
        }
        // the group that it belongs to went away: without a trigger from now on
        if ((fds[1].revents & (POLLERR | POLLNVAL)) != 0) trigger_ = Descriptor();
        duties_.tidy();
        if (is_busy) look((fds[1].revents & POLLPRI) != 0);
    }
}

void Keeper::look(bool stalled) {
    const std::uint64_t missing = headroom_.missing();
    const auto now = std::chrono::steady_clock::now();
    if (stalled || missing > 0) {
        calm_since_ = now;
        duties_.shrink(missing);
    } else if (now - calm_since_ >= kCalm) {
        calm_since_ = now;
        duties_.recover();
    }
}

}  // namespace kvfs::warm
