// Where a run of data goes on the device, and what is on its way there.
//
// Whoever writes file data, a client's or the cleaner's, does it in these steps:
//   1. take_places(): space in one or several segments, under the mutex. From here on the segments are busy (readers),
//   so
//      that nobody empties or reuses them under a write.
//   2. open_segments(): a segment that was opened for this gets its header, before anything else is waited for: the
//      committer waits for headers, and the cleaner for the committer.
//   3. checksum_places(): the extents, without any lock.
//   4. Under the mutex, the file maps them; the data goes to the device, before (cleaner) or after that (Flight).
//   5. finish_places() when the device has answered.
#pragma once

#include <cstdint>
#include <memory>

#include "store/extents.hpp"
#include "store/segments.hpp"
#include "uring/buffers.hpp"
#include "uring/frames.hpp"
#include "uring/inline_vector.hpp"

namespace kvfs::store {

struct File;

struct Place {
    SegmentId segment = 0;
    std::uint32_t block = 0;
    std::uint32_t blocks = 0;
    std::uint64_t generation = 0;
    bool opened = false;  // its segment's header is still to be written
};

using Places = uring::InlineVector<Place, 2>;
using Pieces = uring::InlineVector<Piece, 2>;

// Blocks [from, to) of a file, mapped already, that the device has not written yet. Until it has, nobody may read them.
struct Flight : uring::Pooled {
    std::shared_ptr<File> file;
    std::uint64_t from = 0;
    std::uint64_t to = 0;
    uring::Buffer buffer;
    std::byte* data = nullptr;  // of block `from`, in the buffer
    Places places;
    Flight* previous = nullptr;  // in the file's list
    Flight* next = nullptr;
};

}  // namespace kvfs::store
