#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace lockstep::testing {

// A file of tests/reference/recorded. The source folder comes from ctest: __FILE__ may be relative
// to where the compiler ran.
inline std::filesystem::path recorded_file(const std::string& name) {
  const char* source = std::getenv("LOCKSTEP_SOURCE_DIR");
  if (source == nullptr) throw std::runtime_error("set LOCKSTEP_SOURCE_DIR, as ctest does");
  return std::filesystem::path(source) / "tests/reference/recorded" / name;
}

}  // namespace lockstep::testing
