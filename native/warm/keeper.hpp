// Watches the machine's memory on behalf of the tier: pages go before anybody has to wait for memory.
//
// Two signs. A PSI trigger (/proc/pressure/memory, POLLPRI): tasks have stalled for want of memory. And the headroom,
// looked at every second while there are pages: a group's limit does not always show as a stall before it kills.
// One thread, which sleeps for good while the tier is empty.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "warm/headroom.hpp"
#include "warm/memory.hpp"

namespace kvfs::warm {

class Keeper {
public:
    struct Duties {
        // Frees at least `bytes` where it can, and lowers the limit so that they are not taken again at once.
        // 0: there are stalls, give a quarter.
        std::function<void(std::uint64_t bytes)> shrink;
        // No pressure for a while: the limit may rise towards the budget.
        std::function<void()> recover;
        // What others left for a thread that nobody waits for.
        std::function<void()> tidy;
        // Whether there is anything to watch: pages, or a limit below the budget.
        std::function<bool()> is_busy;
    };
    Keeper(Headroom& headroom, const std::string& root, Duties duties);
    ~Keeper();
    Keeper(const Keeper&) = delete;
    Keeper& operator=(const Keeper&) = delete;

    // There is something to watch now. Cheap when the keeper is awake.
    void wake();
    // There is something to tidy.
    void poke();
    // Its duties are not called any more after this.
    void stop();
    // The kernel reports stalls to us.
    [[nodiscard]] bool has_trigger() const { return static_cast<bool>(trigger_); }

private:
    void run();
    void look(bool stalled);

    Headroom& headroom_;
    const Duties duties_;
    Descriptor trigger_;
    Descriptor event_;
    std::atomic<bool> asleep_{false};
    std::atomic<bool> stop_{false};
    std::chrono::steady_clock::time_point calm_since_;
    std::thread thread_;
};

}  // namespace kvfs::warm
