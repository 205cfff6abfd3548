#pragma once

#include <memory>

namespace lockstep::models::ops {

// The oneDNN primitives of one rank, made at the first use of a shape and kept, because making one
// (it generates machine code) costs more than a small product. Used by one thread at a time, except
// that find-and-execute is split: lookups happen outside parallel regions.
class MatmulCache {
 public:
  MatmulCache();
  ~MatmulCache();
  MatmulCache(const MatmulCache&) = delete;
  MatmulCache& operator=(const MatmulCache&) = delete;

  struct State;  // in matmul_cpu.cc, so that oneDNN's headers stay there
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::models::ops
