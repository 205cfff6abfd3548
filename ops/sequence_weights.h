#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/loss.h"

namespace lockstep::ops {

// How rows count in `optimised` under LossOptions::sequence_rows.
class SequenceWeights {
 public:
  // rows: 0, every counted row counts 1; else they divide the number of targets.
  SequenceWeights(std::span<const std::int32_t> targets, std::int64_t rows) : rows_(rows) {
    const auto n = static_cast<std::int64_t>(targets.size());
    for (std::int64_t begin = 0; rows > 0 && begin < n; begin += rows) {
      std::int64_t counted = 0;
      for (std::int64_t r = begin; r < begin + rows; ++r)
        counted += targets[static_cast<std::size_t>(r)] == kIgnored ? 0 : 1;
      by_sequence_.push_back(counted == 0 ? 0.0 : 1.0 / static_cast<double>(counted));
      sequences_ += counted == 0 ? 0 : 1;
    }
  }

  double of_row(std::int64_t row) const {
    return rows_ == 0 ? 1.0 : by_sequence_[static_cast<std::size_t>(row / rows_)];
  }
  std::int64_t terms(std::int64_t counted) const { return rows_ == 0 ? counted : sequences_; }
  const std::vector<double>& by_sequence() const {
    return by_sequence_;
  }  // empty without sequences

 private:
  std::int64_t rows_;
  std::vector<double> by_sequence_;
  std::int64_t sequences_ = 0;
};

}  // namespace lockstep::ops
