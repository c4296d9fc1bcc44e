// A recording in a file, so that a failure can be looked at again: threads never meet in the same way twice.
#pragma once

#include <string>

#include "tests/crash_workloads.hpp"

namespace kvfs::crash {

// std::runtime_error when the file cannot be written, or read, or is no recording.
void save(const Recording& recording, const std::string& path);
Recording load(const std::string& path);

}  // namespace kvfs::crash
