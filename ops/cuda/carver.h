#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep::ops::cuda {

// Carves arrays out of scratch memory, each on 256 bytes.
class Carver {
 public:
  explicit Carver(std::byte* memory) : next_(memory) {}

  template <typename T>
  static std::size_t bytes(std::int64_t elements) {
    return (static_cast<std::size_t>(elements) * sizeof(T) + 255) / 256 * 256;
  }
  template <typename T>
  T* take(std::int64_t elements) {
    auto* taken = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(elements);
    return taken;
  }

 private:
  std::byte* next_;
};

}  // namespace lockstep::ops::cuda
