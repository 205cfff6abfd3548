#pragma once

#include <array>
#include <cstdint>

namespace lockstep::runtime {

// Code points from `begin` up to the next run's have these classes (unicode_class.h).
struct UnicodeClassRun {
  char32_t begin;
  std::uint8_t classes;
};

// Unicode 16.0, written by make_unicode_tables.py.
extern const std::array<UnicodeClassRun, 3191> kUnicodeClassRuns;

}  // namespace lockstep::runtime
