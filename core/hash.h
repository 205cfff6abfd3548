#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace lockstep::core {

// XXH3-64 of a block of memory. Not a cryptographic hash: it finds torn, altered and differing
// data.
std::uint64_t hash64(const void* data, std::size_t bytes, std::uint64_t seed = 0);
inline std::uint64_t hash64(std::string_view text, std::uint64_t seed = 0) {
  return hash64(text.data(), text.size(), seed);
}

std::string to_hex(std::uint64_t hash);            // 16 lower-case digits
std::uint64_t parse_hex64(std::string_view text);  // throws Error(kData) unless 16 hex digits

// XXH3-64 fed piece by piece; equals hash64 of the concatenation.
class StreamingHash {
 public:
  explicit StreamingHash(std::uint64_t seed = 0);
  ~StreamingHash();
  StreamingHash(StreamingHash&&) noexcept;
  StreamingHash& operator=(StreamingHash&&) noexcept;

  void update(const void* data, std::size_t bytes);
  std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::core
