#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace lockstep::coordinator {

// Makes ids [a-z0-9]{26} that sort by time of creation: 10 digits of base 32 for milliseconds, 16
// that are random. Two of the same millisecond, or after the clock went back, still rise.
class RunIds {
 public:
  explicit RunIds(std::uint64_t seed) : random_(seed) {}

  std::string next(std::int64_t now_ns);
  void known(const std::string& id);  // all that come are greater

 private:
  std::mt19937_64 random_;
  std::string last_;
};

}  // namespace lockstep::coordinator
