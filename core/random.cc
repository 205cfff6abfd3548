#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/hash.h"

namespace lockstep::core {

Philox4x32Key stream_key(std::uint64_t seed, std::string_view purpose) {
  const std::uint64_t h = hash64(purpose.data(), purpose.size(), seed);
  return {static_cast<std::uint32_t>(h), static_cast<std::uint32_t>(h >> 32)};
}

Philox4x32Key stream_key(std::uint64_t seed, std::string_view purpose, std::uint64_t number) {
  const Philox4x32Key outer = stream_key(seed, purpose);
  const std::uint64_t outer_bits = outer[0] | (static_cast<std::uint64_t>(outer[1]) << 32);
  const std::uint64_t h = hash64(&number, sizeof(number), outer_bits);
  return {static_cast<std::uint32_t>(h), static_cast<std::uint32_t>(h >> 32)};
}

void fill_uniform(Philox4x32Key key, float low, float high, float* out, std::uint64_t n) {
  for (std::uint64_t i = 0; i < n; ++i) {
    const Philox4x32Block block = stream_block(key, i / 4);
    out[i] = low + (high - low) * to_unit_float(block[i % 4]);
  }
}

void fill_normal(Philox4x32Key key, float mean, float deviation, float* out, std::uint64_t n) {
  for (std::uint64_t i = 0; i < n; i += 4) {
    const Philox4x32Block block = stream_block(key, i / 4);
    double normal[4];
    for (std::size_t pair = 0; pair < 2; ++pair) {
      const double radius = std::sqrt(-2.0 * std::log(to_open_unit_double(block[2 * pair])));
      const double angle = 2.0 * std::numbers::pi * to_open_unit_double(block[2 * pair + 1]);
      normal[2 * pair] = radius * std::cos(angle);
      normal[2 * pair + 1] = radius * std::sin(angle);
    }
    for (std::uint64_t k = 0; k < 4 && i + k < n; ++k) {
      out[i + k] = static_cast<float>(mean + deviation * normal[k]);
    }
  }
}

}  // namespace lockstep::core
