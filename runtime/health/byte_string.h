#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/check.h"

// What ranks of one machine type send each other as strings of bytes.
namespace lockstep::runtime {

template <typename T>
void append_bytes(std::string& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>, "only plain bytes travel");
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Takes a value off the front.
template <typename T>
T take_bytes(std::string_view& bytes) {
  static_assert(std::is_trivially_copyable_v<T>, "only plain bytes travel");
  LOCKSTEP_CHECK_LE(sizeof(T), bytes.size(), "bytes of a value");
  T value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes.remove_prefix(sizeof(value));
  return value;
}

}  // namespace lockstep::runtime
