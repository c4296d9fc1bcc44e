// Clients that make metadata calls, as many a second as the file system answers: Python's own microseconds would be a
// large part of each, on the same cores as the file system's.
//
//   client absent THREADS            access(F_OK) of each name, which must not be there
//   client publish THREADS           create NAME.tmp, write 4 KiB, close, rename to NAME; a sample is all four
//
// Standard input: for `publish` the first 4 KiB block, then names, one a line. A block starts with its file's stamp:
// the first one as given, ids counting up from it. Threads take the next name when they are done with one. Standard
// output: a line "SECONDS CPU_SECONDS SAMPLES", then the samples in ns, int64 each, of all threads.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kBlock = 4096;
constexpr unsigned kBlockOfFileBits = 24;  // the file's id stands above them in a stamp
using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const std::string& name, const char* what, int error) {
    std::fprintf(stderr, "%s: %s: %s\n", name.c_str(), what, std::strerror(error));
    std::_Exit(1);
}

void look_up(const std::string& name) {
    if (access(name.c_str(), F_OK) == 0) {
        std::fprintf(stderr, "%s: expected no such file, access() found one\n", name.c_str());
        std::_Exit(1);
    }
    if (errno != ENOENT) fail(name, "access", errno);
}

void publish(const std::string& name, const std::string& temporary, const char* block) {
    const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0) fail(temporary, "open", errno);
    const ssize_t put = write(fd, block, kBlock);
    if (put != static_cast<ssize_t>(kBlock)) fail(temporary, "write", put < 0 ? errno : EIO);
    if (close(fd) != 0) fail(temporary, "close", errno);
    if (rename(temporary.c_str(), name.c_str()) != 0) fail(name, "rename", errno);
}

struct Work {
    bool publishes = false;
    std::string block;
    std::vector<std::string> names;
    std::vector<std::string> temporaries;
};

struct Result {
    Clock::time_point begin, end;
    std::vector<std::int64_t> samples;
};

void run(const Work& work, std::atomic<std::size_t>& next, std::barrier<>& start, Result& result) {
    std::string block = work.block;
    std::uint64_t stamp = 0;
    std::memcpy(&stamp, block.data(), block.empty() ? 0 : sizeof stamp);
    const std::uint64_t base = (stamp >> kBlockOfFileBits << kBlockOfFileBits);
    result.samples.reserve(work.names.size());
    start.arrive_and_wait();
    result.begin = Clock::now();
    for (std::size_t i = next++; i < work.names.size(); i = next++) {
        if (work.publishes) {
            const std::uint64_t mine = base + (i << kBlockOfFileBits);
            std::memcpy(block.data(), &mine, sizeof mine);
        }
        const auto begin = Clock::now();
        if (work.publishes) {
            publish(work.names[i], work.temporaries[i], block.data());
        } else {
            look_up(work.names[i]);
        }
        result.samples.push_back(std::chrono::nanoseconds(Clock::now() - begin).count());
    }
    result.end = Clock::now();
}

double cpu_seconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + time.tv_usec / 1e6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Work read_work(std::string_view operation) {
    Work work;
    work.publishes = operation == "publish";
    const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
    std::size_t at = work.publishes ? kBlock : 0;
    work.block = input.substr(0, at);
    while (at < input.size()) {
        const std::size_t end = std::min(input.find('\n', at), input.size());
        work.names.push_back(input.substr(at, end - at));
        if (work.publishes) work.temporaries.push_back(work.names.back() + ".tmp");
        at = end + 1;
    }
    return work;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view operation = argc == 3 ? argv[1] : "";
    if (operation != "absent" && operation != "publish") {
        std::fprintf(stderr, "usage: client absent|publish THREADS <names\n");
        return 2;
    }
    const Work work = read_work(operation);
    const auto count = static_cast<std::size_t>(std::strtoul(argv[2], nullptr, 10));
    std::vector<Result> results(count);
    std::atomic<std::size_t> next{0};
    std::barrier start(static_cast<std::ptrdiff_t>(count));
    const double before = cpu_seconds();
    {
        std::vector<std::jthread> threads;
        threads.reserve(count);
        for (Result& result : results) {
            threads.emplace_back([&work, &next, &start, &result] { run(work, next, start, result); });
        }
    }
    const double cpu = cpu_seconds() - before;
    auto begin = results.front().begin, end = results.front().end;
    std::size_t samples = 0;
    for (const Result& result : results) {
        begin = std::min(begin, result.begin);
        end = std::max(end, result.end);
        samples += result.samples.size();
    }
    std::printf("%.9f %.6f %zu\n", std::chrono::duration<double>(end - begin).count(), cpu, samples);
    for (const Result& result : results) {
        std::fwrite(result.samples.data(), sizeof(std::int64_t), result.samples.size(), stdout);
    }
    return std::fflush(stdout) == 0 ? 0 : 1;
}
