// How a drill fails: one line that names it, and the end of the process.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace kvfs::drill {

[[noreturn]] inline void fail(const std::string& text) {
    std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, text.c_str());
    std::_Exit(1);
}

inline void expect(bool good, const std::string& what) {
    if (!good) fail("expected " + what);
}

}  // namespace kvfs::drill
