#include "launcher/bench/ops_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

using ops::OpContext;

constexpr std::size_t kMostSets = 64;

// The operand sets of one case.
class Sets {
 public:
  Sets(OpContext& context, core::MemoryTracker& memory, RandomPool& pool, const OpCase& op_case,
       const OpsBenchOptions& options) {
    const std::size_t before = memory.current();
    add(context, memory, pool, op_case);
    const std::size_t bytes = std::max<std::size_t>(memory.current() - before, 1);
    const std::size_t room =
        options.memory_bytes - std::min(options.memory_bytes, memory.current());
    const std::size_t wanted = std::min(options.rotate_bytes / bytes, kMostSets - 1);
    const std::size_t more = std::min(wanted, room / 2 / bytes);  // the rest is for scratch
    for (std::size_t i = 0; i < more; ++i)
      add(context, memory, pool, op_case);
  }

  void call() {
    runs_[next_].call();
    next_ = (next_ + 1) % runs_.size();
  }
  std::function<void()> restore() {
    if (!runs_.front().restore) return {};
    return [this] { runs_[next_].restore(); };
  }

  double bytes() const { return operands_.front().bytes(); }
  int size() const { return static_cast<int>(runs_.size()); }

 private:
  void add(OpContext& context, core::MemoryTracker& memory, RandomPool& pool,
           const OpCase& op_case) {
    operands_.emplace_back(context, memory, pool);
    runs_.push_back(op_case.prepare(operands_.back()));
  }

  std::deque<Operands> operands_;
  std::vector<OpRun> runs_;
  std::size_t next_ = 0;
};

OpMeasurement measure(OpContext& context, core::MemoryTracker& memory, RandomPool& pool,
                      const OpCase& op_case, const Ceilings& ceilings,
                      const OpsBenchOptions& options) {
  OpMeasurement result;
  result.op = op_case.op;
  result.part = op_case.part;
  result.shape = op_case.shape;
  result.calls = op_case.calls;
  result.operations = op_case.operations;
  try {
    Sets sets(context, memory, pool, op_case, options);
    result.time = time_calls(
        context, options.limits, [&] { sets.call(); }, sets.restore());
    result.operand_sets = sets.size();
    result.bytes = sets.bytes();
  } catch (const core::Error& error) {
    if (error.kind() != core::ErrorKind::kOutOfMemory) throw;
    result.skipped = error.what();
    return result;
  }
  const double moving = result.bytes / ceilings.copy_bytes_per_second;
  const double multiplying = result.operations / ceilings.matrix_flop_per_second;
  result.floor_seconds = std::max(moving, multiplying);
  result.bound_by_matrix = multiplying > moving;
  return result;
}

}  // namespace

std::vector<OpCase> filtered_cases(const OpShapes& shapes, const std::string& filter) {
  std::vector<OpCase> cases = op_cases(shapes);
  std::vector<std::string> names;
  for (const OpCase& op_case : cases)
    names.push_back(op_case.name());
  std::erase_if(cases, [&](const OpCase& op_case) {
    return op_case.name().find(filter) == std::string::npos;
  });
  if (!cases.empty()) return cases;
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("--filter '{}' leaves no operation; there are: {}", filter,
                                fmt::join(names, "; ")));
}

void measure_ops(OpContext& context, core::MemoryTracker& memory, const std::vector<OpCase>& cases,
                 const Ceilings& ceilings, const OpsBenchOptions& options,
                 const std::function<void(const OpMeasurement&)>& tell) {
  RandomPool pool(context, memory);
  for (const OpCase& op_case : cases)
    tell(measure(context, memory, pool, op_case, ceilings, options));
}

}  // namespace lockstep::launcher
