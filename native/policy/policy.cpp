#include "policy/policy.hpp"

#include "policy/lru.hpp"

namespace kvfs::policy {

std::unique_ptr<Policy> make_policy(std::string_view name, const Host& host, const Options& /*options*/) {
    if (name == "lru") return std::make_unique<Lru>(host);
    return nullptr;
}

const std::vector<std::string_view>& names() {
    static const std::vector<std::string_view> known = {"lru"};
    return known;
}

}  // namespace kvfs::policy
