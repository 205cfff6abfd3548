#pragma once

#include <string>

namespace lockstep::runtime {

// Files that must be whole or absent. All throw Error(kData) naming the path and what the system
// said.

// Writes `text` to a new file and forces it to disk.
void write_synced(const std::string& path, const std::string& text);
// Replaces `path` by a file of this text: readers see the old one or the new one, also after a
// crash.
void replace_file(const std::string& path, const std::string& text);
// Forces the contents of a file, or the entries of a directory, to disk.
void sync_path(const std::string& path);

}  // namespace lockstep::runtime
