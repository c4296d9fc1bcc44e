// Whose turn it is on a thread: coroutines that become ready while another one runs here wait until that one has
// suspended or ended.
//
// Why not resume them on the spot: a lock that a hundred requests wait for would be handed on a hundred calls deep, and
// the first of them would answer its client after all the others.
#pragma once

#include <coroutine>
#include <cstddef>
#include <vector>

namespace kvfs::uring {

class Turn {
public:
    // Opens a turn on this thread unless one is open. The end of the outermost runs what was put off, so it must not
    // lie under a lock.
    Turn() : outermost_(!state().open) { state().open = true; }
    ~Turn() {
        if (!outermost_) return;
        State& mine = state();
        // whoever runs may append
        // NOLINTNEXTLINE(modernize-loop-convert)
        for (std::size_t i = 0; i < mine.ready.size(); ++i) mine.ready[i].resume();
        mine.ready.clear();
        mine.open = false;
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    // Resumes it on this thread: when the coroutine that runs now has had its turn, or at once when none runs.
    static void next(std::coroutine_handle<> handle) {
        if (state().open) {
            state().ready.push_back(handle);
            return;
        }
        const Turn turn;
        handle.resume();
    }

private:
    struct State {
        bool open = false;
        std::vector<std::coroutine_handle<>> ready;  // keeps its capacity
    };
    static State& state() {
        static thread_local State mine;
        return mine;
    }

    bool outermost_;
};

}  // namespace kvfs::uring
