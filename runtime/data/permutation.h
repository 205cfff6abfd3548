#pragma once

#include <cstdint>

#include "core/random.h"

namespace lockstep::runtime {

// The order of the sequences of one epoch: a permutation of [0, size), keyed by (seed, epoch),
// computed value by value and never stored. To replay it elsewhere:
//
//   key     h1 = XXH3-64(the 10 bytes "data/order", seed = run.seed)
//           h2 = XXH3-64(the 8 bytes of epoch, little-endian, seed = h1)
//           key = (low 32 bits of h2, high 32 bits of h2)
//   domain  w = the smallest integer >= 1 with 4^w >= size
//   round   E(x), x < 4^w: left = x >> w; right = x mod 2^w; for round = 0 .. 7:
//             f = word 0 of Philox4x32-10(key, counter = (right, 0, round, 0))
//             (left, right) = (right, left xor (f mod 2^w))
//           E(x) = left * 2^w + right                              (a Feistel network: bijective)
//   walk    permutation(index): x = index; do x = E(x) while x >= size; the last x
//
// Walking E's cycle until it is back in [0, size) keeps the map bijective (Black & Rogaway,
// "Ciphers with arbitrary finite domains", 2002); it takes fewer than four turns on average.
class Permutation {
 public:
  // size in [1, 2^62].
  Permutation(std::uint64_t seed, std::uint64_t epoch, std::uint64_t size);

  std::uint64_t operator()(std::uint64_t index) const;  // index < size

 private:
  std::uint64_t encrypt(std::uint64_t x) const;

  core::Philox4x32Key key_;
  std::uint64_t size_;
  int half_bits_ = 1;  // w
};

}  // namespace lockstep::runtime
