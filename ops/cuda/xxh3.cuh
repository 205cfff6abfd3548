#pragma once

#include <cstdint>

#include "core/cuda/kernel.cuh"

// The arithmetic of XXH3-64 with seed 0 and the default secret.
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
namespace lockstep::ops::cuda::xxh3 {

inline constexpr std::uint64_t kPrime32_1 = 0x9E3779B1U;
inline constexpr std::uint64_t kPrime32_2 = 0x85EBCA77U;
inline constexpr std::uint64_t kPrime32_3 = 0xC2B2AE3DU;
inline constexpr std::uint64_t kPrime64_1 = 0x9E3779B185EBCA87U;
inline constexpr std::uint64_t kPrime64_2 = 0xC2B2AE3D27D4EB4FU;
inline constexpr std::uint64_t kPrime64_3 = 0x165667B19E3779F9U;
inline constexpr std::uint64_t kPrime64_4 = 0x85EBCA77C2B2AE63U;
inline constexpr std::uint64_t kPrime64_5 = 0x27D4EB2F165667C5U;

inline constexpr int kAccumulators = 8;
inline constexpr int kSecretWords = 24;  // of 8 bytes
inline constexpr int kScrambleWord = 16;
// Bytes of the secret from which the last stripe and the merge read.
inline constexpr int kLastStripeKey = 121;
inline constexpr int kMergeKey = 11;

// The 192 bytes of the default secret, little-endian.
struct Secret {
  std::uint64_t words[kSecretWords];
};
inline constexpr Secret kSecret = {{
    0xbe4ba423396cfeb8U, 0x1cad21f72c81017cU, 0xdb979083e96dd4deU, 0x1f67b3b7a4a44072U,
    0x78e5c0cc4ee679cbU, 0x2172ffcc7dd05a82U, 0x8e2443f7744608b8U, 0x4c263a81e69035e0U,
    0xcb00c391bb52283cU, 0xa32e531b8b65d088U, 0x4ef90da297486471U, 0xd8acdea946ef1938U,
    0x3f349ce33f76faa8U, 0x1d4f0bc7c7bbdcf9U, 0x3159b4cd4be0518aU, 0x647378d9c97e9fc8U,
    0xc3ebd33483acc5eaU, 0xeb6313faffa081c5U, 0x49daf0b751dd0d17U, 0x9e68d429265516d3U,
    0xfca1477d58be162bU, 0xce31d07ad1b8f88fU, 0x280416958f3acb45U, 0x7e404bbbcafbd7afU,
}};

// The 8 bytes of the secret from byte `at` on.
__device__ inline std::uint64_t key_at(const std::uint64_t* secret, int at) {
  const std::uint64_t low = secret[at / 8];
  const int shift = at % 8 * 8;
  return shift == 0 ? low : low >> shift | secret[at / 8 + 1] << (64 - shift);
}

__device__ inline std::uint32_t low_half(std::uint64_t x) {
  return static_cast<std::uint32_t>(x);
}
__device__ inline std::uint32_t high_half(std::uint64_t x) {
  return static_cast<std::uint32_t>(x >> 32);
}
__device__ inline std::uint64_t rotate_left(std::uint64_t x, int by) {
  return x << by | x >> (64 - by);
}
__device__ inline std::uint64_t swap_bytes(std::uint64_t x) {
  x = (x & 0x00ff00ff00ff00ffU) << 8 | (x >> 8 & 0x00ff00ff00ff00ffU);
  x = (x & 0x0000ffff0000ffffU) << 16 | (x >> 16 & 0x0000ffff0000ffffU);
  return x << 32 | x >> 32;
}

// The product of the halves.
__device__ inline std::uint64_t product(std::uint64_t x) {
  return (x & 0xffffffffU) * (x >> 32);
}

// The halves of the product of 128 bits, folded together.
__device__ inline std::uint64_t folded_product(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t a0 = low_half(a);
  const std::uint64_t a1 = high_half(a);
  const std::uint64_t b0 = low_half(b);
  const std::uint64_t b1 = high_half(b);
  const std::uint64_t cross = (a0 * b0 >> 32) + low_half(a1 * b0) + a0 * b1;  // fits
  const std::uint64_t upper = (a1 * b0 >> 32) + (cross >> 32) + a1 * b1;
  return upper ^ (cross << 32 | low_half(a0 * b0));
}

__device__ inline std::uint64_t avalanche(std::uint64_t h) {
  h = (h ^ h >> 37) * 0x165667919E3779F9U;
  return h ^ h >> 32;
}
// That of XXH64, for up to 3 bytes.
__device__ inline std::uint64_t avalanche_64(std::uint64_t h) {
  h = (h ^ h >> 33) * kPrime64_2;
  h = (h ^ h >> 29) * kPrime64_3;
  return h ^ h >> 32;
}

// What accumulator i holds before the first block.
__device__ inline std::uint64_t initial(int i) {
  switch (i) {
    case 0:
      return kPrime32_3;
    case 1:
      return kPrime64_1;
    case 2:
      return kPrime64_2;
    case 3:
      return kPrime64_3;
    case 4:
      return kPrime64_4;
    case 5:
      return kPrime32_2;
    case 6:
      return kPrime64_5;
    default:
      return kPrime32_1;
  }
}

// Two neighbouring accumulators, or the 16 bytes of a stripe that go into them.
struct alignas(16) Pair {
  std::uint64_t v[2];
};

__device__ inline void accumulate(Pair& sum, const Pair& data, std::uint64_t key0,
                                  std::uint64_t key1) {
  sum.v[0] += data.v[1] + product(data.v[0] ^ key0);
  sum.v[1] += data.v[0] + product(data.v[1] ^ key1);
}

// Between two blocks: acc = ((acc ^ acc >> 47) ^ key) * prime, and then the next block's increment.
// Written in halves, so that the way from acc to the result is a shift, an exclusive or and one
// multiply-add of 64 bits: nothing else of a long message is serial.
__device__ inline std::uint64_t scramble_and_add(std::uint64_t acc, std::uint64_t key,
                                                 std::uint64_t increment) {
  constexpr auto kPrime = static_cast<std::uint32_t>(kPrime32_1);
  const std::uint32_t high = high_half(acc);
  const std::uint32_t x0 = low_half(acc) ^ high >> 15 ^ low_half(key);
  const std::uint32_t x1 = high ^ high_half(key);
  const std::uint64_t upper = x1 * kPrime + high_half(increment);
  return multiply_add_wide(x0, kPrime, upper << 32 | low_half(increment));
}

// `count` bytes (at most 8), little-endian.
__device__ inline std::uint64_t read_bytes(const unsigned char* p, int count) {
  std::uint64_t word = 0;
  for (int i = 0; i < count; ++i)
    word |= static_cast<std::uint64_t>(p[i]) << (8 * i);
  return word;
}

__device__ inline std::uint64_t mix_16(const unsigned char* p, const std::uint64_t* secret,
                                       int key) {
  return folded_product(read_bytes(p, 8) ^ key_at(secret, key),
                        read_bytes(p + 8, 8) ^ key_at(secret, key + 8));
}

__device__ inline std::uint64_t hash_up_to_16(const unsigned char* p, int n,
                                              const std::uint64_t* secret) {
  const auto length = static_cast<std::uint64_t>(n);
  if (n > 8) {
    const std::uint64_t low = read_bytes(p, 8) ^ secret[3] ^ secret[4];
    const std::uint64_t high = read_bytes(p + n - 8, 8) ^ secret[5] ^ secret[6];
    return avalanche(length + swap_bytes(low) + high + folded_product(low, high));
  }
  if (n >= 4) {
    std::uint64_t h = read_bytes(p, 4) << 32 | read_bytes(p + n - 4, 4);
    h ^= secret[1] ^ secret[2];
    h ^= rotate_left(h, 49) ^ rotate_left(h, 24);
    h *= 0x9FB21C651E98DF25U;
    h ^= (h >> 35) + length;
    h *= 0x9FB21C651E98DF25U;
    return h ^ h >> 28;
  }
  if (n > 0) {
    const std::uint64_t combined = read_bytes(p, 1) << 16 | read_bytes(p + n / 2, 1) << 24 |
                                   read_bytes(p + n - 1, 1) | length << 8;
    return avalanche_64(combined ^ low_half(secret[0]) ^ high_half(secret[0]));
  }
  return avalanche_64(secret[7] ^ secret[8]);
}

// A message of n <= 240 bytes.
__device__ inline std::uint64_t hash_short(const unsigned char* p, int n,
                                           const std::uint64_t* secret) {
  if (n <= 16) return hash_up_to_16(p, n, secret);
  std::uint64_t h = static_cast<std::uint64_t>(n) * kPrime64_1;
  if (n <= 128) {
    // From both ends inwards.
    for (int i = (n - 1) / 32; i >= 0; --i)
      h += mix_16(p + 16 * i, secret, 32 * i) + mix_16(p + n - 16 * (i + 1), secret, 32 * i + 16);
    return avalanche(h);
  }
  for (int i = 0; i < 8; ++i)
    h += mix_16(p + 16 * i, secret, 16 * i);
  h = avalanche(h);
  for (int i = 8; i < n / 16; ++i)
    h += mix_16(p + 16 * i, secret, 16 * (i - 8) + 3);
  return avalanche(h + mix_16(p + n - 16, secret, 119));
}

}  // namespace lockstep::ops::cuda::xxh3
