// What a fuzzer's bytes mean to a target that builds something from them: numbers, choices, names.
//
// Taken from the front, zeros once they are used up: every input means something, and a byte more or less changes only
// what comes after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace kvfs::fuzz {

class Input {
public:
    Input(const std::uint8_t* data, std::size_t size) : data_(reinterpret_cast<const std::byte*>(data), size) {}

    [[nodiscard]] bool empty() const { return data_.empty(); }
    template <typename T>
    T take() {
        T value{};
        const std::size_t size = std::min(sizeof value, data_.size());
        std::memcpy(&value, data_.data(), size);
        data_ = data_.subspan(size);
        return value;
    }
    std::span<const std::byte> bytes(std::size_t most) {
        const auto out = data_.first(std::min(most, data_.size()));
        data_ = data_.subspan(out.size());
        return out;
    }
    // Mostly below `limit`, so that things meet; sometimes anything at all.
    std::uint64_t number(std::uint8_t limit) {
        const auto small = take<std::uint8_t>();
        if (small < 0xf0) return small % limit;
        const auto any = take<std::uint64_t>();
        // powers of two and their neighbours: where arithmetic overflows
        return small < 0xf8 ? any : (std::uint64_t{1} << (any % 64)) + (any >> 8) % 3 - 1;
    }
    // A file name, or what somebody may take for one.
    std::string name() {
        static constexpr const char* kNames[] = {"a", "b", "c", "d", "dir", ".", "..", ".kvfs", "a/b", ""};
        const auto choice = take<std::uint8_t>();
        if (choice < 0xe0) return kNames[choice % std::size(kNames)];
        const auto raw = bytes(take<std::uint8_t>());
        std::string out(reinterpret_cast<const char*>(raw.data()), raw.size());
        if (choice >= 0xf8) out.resize(255, 'x');
        return out;
    }

private:
    std::span<const std::byte> data_;
};

}  // namespace kvfs::fuzz
