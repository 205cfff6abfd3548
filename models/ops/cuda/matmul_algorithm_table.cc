#include <initializer_list>

#include "models/ops/cuda/matmul_algorithms.h"

namespace lockstep::models::ops::cuda {

namespace {

// clang-format off
constexpr std::initializer_list<AlgorithmEntry> kTable = {
};
// clang-format on

}  // namespace

std::span<const AlgorithmEntry> algorithm_table() {
  return {kTable.begin(), kTable.size()};
}

}  // namespace lockstep::models::ops::cuda
