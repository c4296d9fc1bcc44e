#include "policy/policy.hpp"

#include "policy/arc.hpp"
#include "policy/learned.hpp"
#include "policy/lru.hpp"
#include "policy/s3fifo.hpp"

namespace kvfs::policy {

std::unique_ptr<Policy> make_policy(std::string_view name, const Host& host, const Options& options) {
    if (name == "kvfs") return std::make_unique<Learned>(host);
    if (name == "lru") return std::make_unique<Lru>(host);
    if (name == "s3fifo") return std::make_unique<S3Fifo>(host, options);
    if (name == "arc") return std::make_unique<Arc>(host, options);
    return nullptr;
}

const std::vector<std::string_view>& names() {
    static const std::vector<std::string_view> known = {"kvfs", "lru", "s3fifo", "arc"};
    return known;
}

}  // namespace kvfs::policy
