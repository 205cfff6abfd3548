#pragma once

#include <gmock/gmock.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"

namespace lockstep::testing {

// The bytes of values one after the other, as they lie in a little-endian file.
template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// llm.c's header of 256 int32.
inline std::string llmc_header(std::int32_t magic, std::int32_t version, std::int32_t tokens) {
  std::vector<std::int32_t> header(256, 0);
  header[0] = magic;
  header[1] = version;
  header[2] = tokens;
  return bytes_of(header);
}

// Runs f, which must throw a data error, and gives its message.
template <typename F>
std::string data_error(F&& f) {
  try {
    f();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "expected a data error, found none";
  return "";
}

}  // namespace lockstep::testing
