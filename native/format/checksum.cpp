#include "format/checksum.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <xxh_x86dispatch.h>  // picks AVX2 or AVX-512 at run time
#else
#include <xxhash.h>
#endif

namespace kvfs::format {
namespace {

std::uint32_t crc32c_table(const unsigned char* data, std::size_t size, std::uint32_t crc) {
    static const auto table = [] {
        std::array<std::uint32_t, 256> t{};
        for (std::uint32_t i = 0; i < 256; ++i) {
            std::uint32_t c = i;
            for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? (c >> 1) ^ 0x82f63b78U : c >> 1;
            t[i] = c;
        }
        return t;
    }();
    while (size-- > 0) crc = table[(crc ^ *data++) & 0xff] ^ (crc >> 8);
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t crc32c_sse(const unsigned char* data, std::size_t size,
                                                           std::uint32_t crc) {
    std::uint64_t wide = crc;
    for (; size >= 8; size -= 8, data += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = static_cast<std::uint32_t>(wide);
    while (size-- > 0) crc = _mm_crc32_u8(crc, *data++);
    return crc;
}
#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t previous) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data.data());
#if defined(__x86_64__)
    static const bool hardware = __builtin_cpu_supports("sse4.2") != 0;
    if (hardware) return ~crc32c_sse(bytes, data.size(), ~previous);
#endif
    return ~crc32c_table(bytes, data.size(), ~previous);
}

std::uint64_t DataChecksum::operator()(std::span<const std::byte> data, std::uint64_t segment, std::uint64_t generation,
                                       std::uint64_t block) const {
    std::array<std::byte, 40> place{};
    std::memcpy(place.data(), uuid_.data(), 16);
    std::memcpy(place.data() + 16, &segment, 8);
    std::memcpy(place.data() + 24, &generation, 8);
    std::memcpy(place.data() + 32, &block, 8);
    const std::uint64_t seed = XXH3_64bits(place.data(), place.size());
    return XXH3_64bits_withSeed(data.data(), data.size(), seed);
}

std::uint64_t hash_name(std::uint32_t parent, std::string_view name, std::uint64_t seed) {
    return XXH3_64bits_withSeed(name.data(), name.size(), seed ^ (parent * 0x9e3779b97f4a7c15ULL));
}

const char* xxh3_vector_unit() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") != 0) return "avx512";
    if (__builtin_cpu_supports("avx2") != 0) return "avx2";
    return "sse2";
#else
    return "scalar";
#endif
}

}  // namespace kvfs::format
