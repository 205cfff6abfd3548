#include "core/hash.h"

#include <xxhash.h>

#include "core/check.h"

namespace lockstep::core {

std::uint64_t hash64(const void* data, std::size_t bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

std::string to_hex(std::uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

std::uint64_t parse_hex64(std::string_view text) {
  std::uint64_t value = 0;
  bool good = text.size() == 16;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    const bool letter = c >= 'a' && c <= 'f';
    good = good && (digit || letter);
    value = (value << 4) | static_cast<std::uint64_t>(digit ? c - '0' : letter ? c - 'a' + 10 : 0);
  }
  if (!good) {
    throw Error(ErrorKind::kData,
                fmt::format("expected a hash of 16 hexadecimal digits, found '{}'", text));
  }
  return value;
}

struct StreamingHash::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

StreamingHash::StreamingHash(std::uint64_t seed) : state_(std::make_unique<State>()) {
  LOCKSTEP_CHECK(XXH3_64bits_reset_withSeed(state_->xxh, seed) == XXH_OK, "XXH3 reset");
}

StreamingHash::~StreamingHash() = default;
StreamingHash::StreamingHash(StreamingHash&&) noexcept = default;
StreamingHash& StreamingHash::operator=(StreamingHash&&) noexcept = default;

void StreamingHash::update(const void* data, std::size_t bytes) {
  LOCKSTEP_CHECK(XXH3_64bits_update(state_->xxh, data, bytes) == XXH_OK, "XXH3 update");
}

std::uint64_t StreamingHash::digest() const {
  return XXH3_64bits_digest(state_->xxh);
}

}  // namespace lockstep::core
