// INIT, the first message of a connection and the only one that is read before there is a request loop.
#pragma once

#include <cstdint>

#include "splitter/protocol.hpp"

namespace kvfs::splitter {

struct Hello {
    fuse_in_header header;
    fuse_init_in init;

    // Both words of flags, where the kernel has two.
    [[nodiscard]] std::uint64_t offered() const {
        const bool has_two = (init.flags & FUSE_INIT_EXT) != 0;
        return init.flags | (has_two ? std::uint64_t{init.flags2} << 32 : 0);
    }
};

// Waits for INIT. Throws std::system_error: of read(2), or EPROTO when what came is something else.
Hello read_init(int fuse_fd);
void answer_init(int fuse_fd, const Hello& hello, const InitOut& answer);

// The answer to `hello` with these flags: all that kvfs says to every kernel.
InitOut answer_to(const Hello& hello, std::uint64_t flags);

}  // namespace kvfs::splitter
