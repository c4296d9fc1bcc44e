#include "tests/crash_replay.hpp"

#include <fstream>
#include <stdexcept>

namespace kvfs::crash {
namespace {

constexpr std::uint64_t kMagic = 0x3245434152544b56;  // "VKTRACE2"

// One description of the layout for both ways: numbers are 8 bytes, sequences have their length in front.
class Writer {
public:
    explicit Writer(const std::string& path) : out_(path, std::ios::binary) {}
    void number(const std::uint64_t& value) { out_.write(reinterpret_cast<const char*>(&value), sizeof value); }
    template <typename Bytes>
    void bytes(const Bytes& value) {
        number(value.size());
        out_.write(reinterpret_cast<const char*>(value.data()), static_cast<std::streamsize>(value.size()));
    }
    template <typename List, typename Each>
    void list(const List& values, Each&& each) {
        number(values.size());
        for (const auto& value : values) each(value);
    }
    bool finish() { return static_cast<bool>(out_.flush()); }

private:
    std::ofstream out_;
};

class Reader {
public:
    explicit Reader(const std::string& path) : in_(path, std::ios::binary) {}
    void number(std::uint64_t& value) {
        if (!in_.read(reinterpret_cast<char*>(&value), sizeof value)) throw std::runtime_error("it ends too early");
    }
    template <typename Bytes>
    void bytes(Bytes& value) {
        value.resize(length());
        const auto size = static_cast<std::streamsize>(value.size());
        if (!in_.read(reinterpret_cast<char*>(value.data()), size)) throw std::runtime_error("it ends too early");
    }
    template <typename List, typename Each>
    void list(List& values, Each&& each) {
        values.resize(length());
        for (auto& value : values) each(value);
    }

private:
    std::uint64_t length() {
        constexpr std::uint64_t kMost = std::uint64_t{1} << 32;
        std::uint64_t n = 0;
        number(n);
        if (n > kMost) throw std::runtime_error("a length of " + std::to_string(n) + " is none");
        return n;
    }
    std::ifstream in_;
};

template <typename Io, typename Of>
void transfer(Io& io, Of& recording) {
    auto& trace = recording.trace;
    io.bytes(trace.base);
    io.number(trace.end);
    io.number(recording.evicts);
    io.list(trace.writes, [&](auto& write) {
        io.number(write.offset);
        io.number(write.size);
        io.bytes(write.data);
        io.number(write.sent);
        io.number(write.back);
    });
    io.list(trace.flushes, [&](auto& flush) {
        io.number(flush.sent);
        io.number(flush.back);
    });
    io.list(recording.histories, [&](auto& history) {
        io.bytes(history.directory);
        io.list(history.states, [&](auto& state) {
            io.number(state.from);
            std::vector<std::pair<std::string, Digest>> files(state.contents.begin(), state.contents.end());
            io.list(files, [&](auto& file) {
                io.bytes(file.first);
                io.number(file.second);
            });
            if constexpr (!std::is_const_v<Of>) {
                state.contents = Contents(files.begin(), files.end());
                state.digest = digest_of(state.contents);
            }
        });
        io.list(history.promises, [&](auto& promise) {
            io.number(promise.told);
            io.number(promise.state);
            io.number(promise.evictions);
        });
        io.list(history.evictions, [&](auto& eviction) {
            io.number(eviction.at);
            io.number(eviction.file);
        });
    });
}

}  // namespace

void save(const Recording& recording, const std::string& path) {
    Writer writer(path);
    writer.number(kMagic);
    transfer(writer, recording);
    if (!writer.finish()) throw std::runtime_error(path + ": the recording cannot be written");
}

Recording load(const std::string& path) {
    Recording recording;
    try {
        Reader reader(path);
        std::uint64_t magic = 0;
        reader.number(magic);
        if (magic != kMagic) throw std::runtime_error("it begins with other bytes");
        transfer(reader, recording);
    } catch (const std::runtime_error& failure) {
        throw std::runtime_error(path + ": expected a recording of crash_states, but " + failure.what());
    }
    return recording;
}

}  // namespace kvfs::crash
