#include "policy/future.hpp"

namespace kvfs::policy {

Future::Future(const Trace& trace)
    : requests_(static_cast<std::uint32_t>(trace.requests().size())),
      after_(trace.references()),
      next_(trace.ids(), requests_) {
    auto at = after_.size();
    for (auto request = requests_; request-- > 0;) {
        const auto runs = trace.runs(trace.requests()[request]);
        for (auto run = runs.size(); run-- > 0;) {
            for (auto block = runs[run].length; block-- > 0;) {
                auto& next = next_[runs[run].first + block];
                after_[--at] = next;
                next = request;
            }
        }
    }
}

}  // namespace kvfs::policy
