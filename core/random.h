#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace lockstep::core {

// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A value depends only on key and counter, so weights, data order and dropout
// are the same at any number of ranks and threads. constexpr, so that kernels may call it too.
using Philox4x32Key = std::array<std::uint32_t, 2>;
using Philox4x32Block = std::array<std::uint32_t, 4>;

constexpr Philox4x32Block philox4x32(Philox4x32Key key, Philox4x32Block counter) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53U;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57U;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kMultiplier0) * counter[0];
    const std::uint64_t p1 = static_cast<std::uint64_t>(kMultiplier1) * counter[2];
    counter = {
        static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
        static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// The key of one stream of random numbers: what it is for, under one seed.
Philox4x32Key stream_key(std::uint64_t seed, std::string_view purpose);
Philox4x32Key stream_key(std::uint64_t seed, std::string_view purpose, std::uint64_t number);

// The block number `index` of a stream.
constexpr Philox4x32Block stream_block(Philox4x32Key key, std::uint64_t index,
                                       std::uint64_t sub_stream = 0) {
  return philox4x32(
      key, {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
            static_cast<std::uint32_t>(sub_stream), static_cast<std::uint32_t>(sub_stream >> 32)});
}

// Uniform in [0, 1) with 24 bits, exact in fp32.
constexpr float to_unit_float(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1.0p-24F;
}

// Uniform in (0, 1) with 32 bits, never 0 or 1.
inline double to_open_unit_double(std::uint32_t bits) {
  return (static_cast<double>(bits) + 0.5) * 0x1.0p-32;
}

// Fills n values of the stream, element i being a pure function of (key, i): uniform in [low,
// high), or normal (Box-Muller in double, then rounded to fp32).
void fill_uniform(Philox4x32Key key, float low, float high, float* out, std::uint64_t n);
void fill_normal(Philox4x32Key key, float mean, float deviation, float* out, std::uint64_t n);

}  // namespace lockstep::core
