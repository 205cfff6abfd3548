#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "launcher/bench/ceilings.h"
#include "launcher/bench/op_cases.h"
#include "launcher/bench/op_timer.h"

namespace lockstep::launcher {

struct OpMeasurement {
  std::string op;  // as OpCase
  std::string part;
  std::string shape;
  double calls = 0.0;
  std::string skipped;  // why it was not measured; empty: it was
  CallTime time;
  int operand_sets = 0;     // that the calls went through in turn
  double bytes = 0.0;       // that a call must move
  double operations = 0.0;  // that matrix units can do
  // The least time that the ceilings allow for the bytes or for the operations, whichever is more.
  double floor_seconds = 0.0;
  bool bound_by_matrix = false;

  double bytes_per_second() const { return bytes / time.seconds; }
  double flop_per_second() const { return operations / time.seconds; }
  double fraction() const { return floor_seconds / time.seconds; }  // of the ceiling
};

struct OpsBenchOptions {
  TimingLimits limits;
  // Operands are kept in so many sets that a set has left the caches before its turn comes again.
  std::size_t rotate_bytes = std::size_t{256} << 20;
  std::size_t memory_bytes = std::size_t{2} << 30;  // of operands; also the limit of `memory`
};

// The ops of a model with `filter` in their names. Throws Error(kConfig) naming all when none has.
std::vector<OpCase> filtered_cases(const OpShapes& shapes, const std::string& filter);

// Measures ops one after another, and tells of each as soon as it is there. One whose operands do
// not fit is told as skipped.
void measure_ops(ops::OpContext& context, core::MemoryTracker& memory,
                 const std::vector<OpCase>& cases, const Ceilings& ceilings,
                 const OpsBenchOptions& options,
                 const std::function<void(const OpMeasurement&)>& tell);

}  // namespace lockstep::launcher
