#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/error.h"

// What every fuzz target is made of. A target has one entry point, LLVMFuzzerTestOneInput;
// libFuzzer calls it with inputs of its own making, tests/fuzz/replay_main.cc with the files of a
// corpus.
namespace lockstep::fuzz {

// Ends the program as a finding unless `holds`.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Runs `read`, which may refuse its input with an Error of this kind and a message, and nothing
// else: any other exception, like a crash or a hang, is a finding.
template <typename Read>
void may_refuse(core::ErrorKind kind, const Read& read) {
  try {
    read();
  } catch (const core::Error& error) {
    require(error.kind() == kind, error.what());
    require(error.what()[0] != '\0', "an error without a message");
  }
}

// A file in memory that has a path; one for the life of a target, since a target is called very
// often.
class MemoryFile {
 public:
  MemoryFile();
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void fill(std::string_view bytes) const;
  const std::string& path() const { return path_; }

 private:
  int descriptor_;
  std::string path_;
};

// A directory whose entry `name` is the file; removed at the end.
class LinkDirectory {
 public:
  LinkDirectory(const std::string& name, const MemoryFile& file);
  ~LinkDirectory();
  LinkDirectory(const LinkDirectory&) = delete;
  LinkDirectory& operator=(const LinkDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace lockstep::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
