#include "splitter/mapped_twice.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace kvfs::splitter {

namespace {

class Descriptor {
public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    [[nodiscard]] int get() const { return fd_; }

private:
    int fd_;
};

[[noreturn]] void fail() { throw std::system_error(errno, std::generic_category(), "memory of the request rings"); }

}  // namespace

Mapping::~Mapping() { munmap(memory_.data(), memory_.size()); }

std::shared_ptr<const Mapping> map_twice(std::byte*& place, std::size_t size) {
    const Descriptor file(memfd_create("kvfs-ring", MFD_CLOEXEC));
    if (file.get() < 0 || ftruncate(file.get(), static_cast<off_t>(size)) != 0) fail();
    const auto map = [&](std::byte* at) {
        void* const found = mmap(at, size, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_NORESERVE | (at == nullptr ? 0 : MAP_FIXED), file.get(), 0);
        if (found == MAP_FAILED) fail();
        return static_cast<std::byte*>(found);
    };
    auto second = std::make_shared<const Mapping>(std::span(map(nullptr), size));
    place = map(place);
    return second;
}

}  // namespace kvfs::splitter
