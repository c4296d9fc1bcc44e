// What the store removes without being short of room: files whose time to live is over, and temporary files that a
// dead writer left behind.
//
// A temporary file is one that a client writes before it renames it to its final name. The clients of DESIGN 6 name
// them so (seen in their sources and in tests/clients):
//
//   *.tmp      vLLM's file-system tier (.bin_<random>.tmp), llm-d (.<uuid>.tmp), LMCache (.tmp, also in tmp/),
//              SGLang HiCacheFile (.<uuid>.tmp), UCM, AIBrix
//   *.tmp.*    path.tmp.<pid>, as Python programs write caches
//   *.tmp-*    the same with a uuid
//
// It is an orphan when its name is of that kind and nobody has touched it (atime, mtime, ctime: the latest) for as long
// as --sweep-after says. Neither an orphan nor an expired file is removed while something keeps it
// (Store::keep_reason): open, being written, pinned, not evictable.
//
// The sweeper is a thread of its own. It looks at every inode in turn, a slice at a time with the mutex free in
// between, kSlice x kSlices of them a second, and starts again a tenth of the shortest of all times later, between a
// second and a minute. With nothing to look for it sleeps. A removal is an eviction (eviction.hpp) for another reason,
// whatever --on-full says. When the process dies in the middle of a pass, the next mount starts another.
#pragma once

#include <cstdint>
#include <string_view>

namespace kvfs::store {

bool looks_temporary(std::string_view name);

}  // namespace kvfs::store
