#pragma once

#include <array>
#include <cstdint>

namespace lockstep::runtime {

// Code points first to last have this canonical combining class, which is not 0.
struct CombiningRun {
  char32_t first, last;
  std::uint8_t combining_class;
};

// `code` decomposes canonically to `first` and `second` (0: to `first` alone).
struct CharacterPair {
  char32_t code, first, second;
};

// Written by make_unicode_tables.py, which tells of which version they are. Rising by code point.
extern const std::array<CombiningRun, 333> kCombiningRuns;
extern const std::array<CharacterPair, 2060> kDecompositions;
extern const std::array<char32_t, 85> kCompositionExclusions;  // pairs that do not compose again

}  // namespace lockstep::runtime
