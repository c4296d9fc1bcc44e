#include "uring/faults.hpp"

#include <algorithm>
#include <cerrno>

namespace kvfs::uring {
namespace {

using namespace std::chrono_literals;

constexpr auto kAskAgain = 5ms;
constexpr int kUnit = 4096;  // a shorter transfer than this is none that a direct one may be continued from

}  // namespace

std::uint64_t FaultInjector::add(Rule rule) {
    const std::lock_guard guard(mutex_);
    rule.id = ++last_id_;
    rule.hits = 0;
    rules_.push_back(rule);
    return rule.id;
}

bool FaultInjector::remove(std::uint64_t id) {
    const std::lock_guard guard(mutex_);
    return std::erase_if(rules_, [id](const Rule& rule) { return rule.id == id; }) != 0;
}

void FaultInjector::clear() {
    const std::lock_guard guard(mutex_);
    rules_.clear();
}

std::vector<FaultInjector::Rule> FaultInjector::rules() const {
    const std::lock_guard guard(mutex_);
    return rules_;
}

std::size_t FaultInjector::held() const {
    const std::lock_guard guard(mutex_);
    return held_.size();
}

FaultInjector::Rule* FaultInjector::find(std::uint64_t id) {
    const auto it = std::find_if(rules_.begin(), rules_.end(), [id](const Rule& rule) { return rule.id == id; });
    return it == rules_.end() ? nullptr : &*it;
}

FaultInjector::Rule* FaultInjector::match(const Request& request) {
    for (Rule& rule : rules_) {
        if ((rule.kinds >> static_cast<unsigned>(request.kind) & 1U) == 0) continue;
        const std::uint64_t end = request.offset + std::max<std::size_t>(request.size, 1);
        if (end <= rule.from || request.offset >= rule.to || rule.count == 0) continue;
        if (rule.probability < 1 && std::uniform_real_distribution<>(0, 1)(random_) >= rule.probability) continue;
        if (rule.skip > 0) {
            --rule.skip;
            continue;
        }
        if (rule.count != ~std::uint64_t{0}) --rule.count;
        ++rule.hits;
        return &rule;
    }
    return nullptr;
}

std::optional<Tap::Answer> FaultInjector::before(const Request& request) {
    const std::lock_guard guard(mutex_);
    const Answer again{-EAGAIN, kAskAgain};
    if (const auto it = held_.find(request.id); it != held_.end()) {
        const Rule* const rule = find(it->second.rule);
        if (rule != nullptr && (rule->effect == Effect::kHang || Clock::now() < it->second.until)) return again;
        held_.erase(it);
        return std::nullopt;
    }
    const Rule* const rule = match(request);
    if (rule == nullptr) return std::nullopt;
    switch (rule->effect) {
        case Effect::kError:
            return Answer{-rule->error, {}};
        case Effect::kShort:
            short_[request.id] = true;
            return std::nullopt;
        case Effect::kDelay:
        case Effect::kHang:
            held_[request.id] = {rule->id, Clock::now() + rule->delay};
            return again;
    }
    return std::nullopt;
}

// The device has done all of a transfer that comes up short. Doing the remainder again changes nothing.
int FaultInjector::after(const Request& request, int result) {
    const std::lock_guard guard(mutex_);
    if (short_.erase(request.id) == 0 || result < 2 * kUnit) return result;
    return result / 2 / kUnit * kUnit;
}

}  // namespace kvfs::uring
