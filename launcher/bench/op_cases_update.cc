#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "launcher/bench/op_cases.h"
#include "models/parameter_table.h"
#include "ops/accumulate.h"
#include "ops/gradient_stats.h"
#include "ops/hash.h"
#include "ops/optimizer_update.h"
#include "ops/transfer.h"

// What happens to gradients and parameters: of as many blocks as make kMostElements, standing for
// the whole model.
namespace lockstep::launcher {

namespace {

using core::DType;
using core::Shape;
using core::TensorView;
using ops::Range;
using ops::UpdatePlan;
using ops::UpdateRun;

constexpr std::int64_t kMostElements = std::int64_t{1} << 26;

// The tensors of some blocks, one behind the other.
struct Blocks {
  struct Tensor {
    Range range;
    bool decays = false;
  };
  std::vector<Tensor> tensors;
  std::int64_t elements = 0;  // of all
  std::int64_t block = 0;     // of one block
  double calls = 0.0;         // that make a model

  Shape shape() const { return {elements}; }
  std::string text() const { return fmt::format("{} tensors, {}", tensors.size(), elements); }
};

Blocks blocks_of(const models::ModelConfig& model) {
  const models::ParameterTable table(model);
  Blocks blocks;
  for (const models::ParameterId id : table.in_group(1))
    blocks.block += table[id].elements();
  const std::int64_t count =
      std::clamp<std::int64_t>(kMostElements / blocks.block, 1, model.layers);
  for (std::int64_t i = 0; i < count; ++i) {
    for (const models::ParameterId id : table.in_group(1)) {
      blocks.tensors.push_back({{blocks.elements, table[id].elements()}, table[id].decays});
      blocks.elements += table[id].elements();
    }
  }
  blocks.calls = static_cast<double>(table.total_elements()) / static_cast<double>(blocks.elements);
  return blocks;
}

std::vector<Range> ranges_of(const Blocks& blocks) {
  std::vector<Range> ranges;
  for (const Blocks::Tensor& tensor : blocks.tensors)
    ranges.push_back(tensor.range);
  return ranges;
}

// Memory of a device for n numbers that an op leaves there.
template <typename T>
T* results(Operands& o, std::size_t n) {
  const auto words = static_cast<std::int64_t>(n * sizeof(T) / sizeof(double));
  return static_cast<T*>(o.uncounted(DType::kF64, {words}).raw());
}

void add_gradient_stats(const OpShapes& shapes, const Blocks& blocks, std::vector<OpCase>& cases) {
  const DType dtype = shapes.dtype;
  cases.push_back(
      {"count_nonfinite_ranges", "leaves", blocks.text(), blocks.calls, 0.0, [=](Operands& o) {
         const TensorView values = o.read(dtype, blocks.shape());
         auto* counts = results<ops::NonFinite>(o, blocks.tensors.size());
         return OpRun{[=, ranges = ranges_of(blocks), &context = o.context()] {
           ops::count_nonfinite_ranges(context, values, ranges, counts);
         }};
       }});
  cases.push_back(
      {"sums_of_squares", "gradient", blocks.text(), blocks.calls, 0.0, [=](Operands& o) {
         const TensorView values = o.read(DType::kF32, blocks.shape());
         auto* sums = results<ops::SumOfSquares>(o, blocks.tensors.size());
         return OpRun{[=, ranges = ranges_of(blocks), &context = o.context()] {
           ops::sums_of_squares(context, values, ranges, sums);
         }};
       }});
}

// One block at a time, as its bucket is filled and sent.
void add_transfers(const OpShapes& shapes, const Blocks& blocks, std::vector<OpCase>& cases) {
  const DType dtype = shapes.dtype;
  const Shape shape{blocks.block};
  const std::string text = fmt::format("{}", blocks.block);
  const double calls =
      blocks.calls * static_cast<double>(blocks.elements) / static_cast<double>(blocks.block);
  cases.push_back({"accumulate", "leaf onto fp32 sum", text, calls, 0.0, [=](Operands& o) {
                     const TensorView values = o.read(dtype, shape);
                     const TensorView sum = o.update(DType::kF32, shape);
                     return OpRun{[=, &context = o.context()] {
                       ops::accumulate(context, values, false, sum);
                     }};
                   }});
  cases.push_back({"cast", "fp32 to 16 bits", text, 0.0, 0.0, [=](Operands& o) {
                     const TensorView from = o.read(DType::kF32, shape);
                     const TensorView to = o.write(DType::kBF16, shape);
                     return OpRun{[=, &context = o.context()] { ops::cast(context, from, to); }};
                   }});
  cases.push_back({"copy", "leaf", text, 0.0, 0.0, [=](Operands& o) {
                     const TensorView from = o.read(dtype, shape);
                     const TensorView to = o.write(dtype, shape);
                     return OpRun{[=, &context = o.context()] { ops::copy(context, from, to); }};
                   }});
  cases.push_back({"set_zero", "leaf", text, 0.0, 0.0, [=](Operands& o) {
                     const TensorView to = o.write(dtype, shape);
                     return OpRun{[=, &context = o.context()] { ops::set_zero(context, to); }};
                   }});
}

// AdamW; the master is the parameter itself when that is fp32.
std::vector<UpdateRun> update_runs(Operands& o, const Blocks& blocks, DType dtype) {
  const TensorView gradient = o.read(DType::kF32, blocks.shape());
  const TensorView master = o.update(DType::kF32, blocks.shape());
  const TensorView mean = o.update(DType::kF32, blocks.shape());
  const TensorView squares =  // of which the root is taken
      o.uncounted(DType::kF32, blocks.shape(), RandomPool::Kind::kUnit);
  o.count(squares);
  o.count(squares);
  const TensorView parameter = dtype == DType::kF32 ? TensorView{} : o.write(dtype, blocks.shape());
  std::vector<UpdateRun> runs;
  for (const Blocks::Tensor& tensor : blocks.tensors) {
    const std::int64_t end = tensor.range.begin + tensor.range.count;
    const auto part = [&](const TensorView& whole) {
      return whole.empty() ? whole : whole.slice_cols(tensor.range.begin, end);
    };
    UpdateRun run;
    run.gradient = part(gradient);
    run.master = part(master);
    run.state0 = part(mean);
    run.state1 = part(squares);
    run.parameter = part(parameter);
    run.decay = tensor.decays;
    runs.push_back(run);
  }
  return runs;
}

void add_update(const OpShapes& shapes, const Blocks& blocks, std::vector<OpCase>& cases) {
  ops::UpdateRule rule;
  rule.learning_rate = 1e-6;
  rule.weight_decay = 0.1;
  cases.push_back(
      {"optimizer_update_runs", "adamw", blocks.text(), blocks.calls, 0.0, [=](Operands& o) {
         const auto plan = std::make_shared<UpdatePlan>(o.context(), o.memory(),
                                                        update_runs(o, blocks, shapes.dtype));
         return OpRun{[=, &context = o.context()] {
           ops::optimizer_update_runs(context, rule, *plan, 1.0F, 0.0F);
         }};
       }});
}

// Every step with parallel.verify_every, a message for each bucket.
void add_hash(const OpShapes& shapes, const Blocks& blocks, std::vector<OpCase>& cases) {
  const auto element = static_cast<std::int64_t>(core::size_of(shapes.dtype));
  const std::int64_t messages = blocks.elements / blocks.block;
  cases.push_back({"hash_messages", "parameters",
                   fmt::format("{} of {} bytes", messages, blocks.block * element), blocks.calls,
                   0.0, [=](Operands& o) {
                     std::vector<std::vector<ops::ByteRange>> ranges;
                     for (std::int64_t i = 0; i < messages; ++i)
                       ranges.push_back({{i * blocks.block * element, blocks.block * element}});
                     const TensorView values = o.read(shapes.dtype, blocks.shape());
                     auto* hashes = results<std::uint64_t>(o, ranges.size());
                     const auto plan =
                         std::make_shared<ops::HashPlan>(o.context(), o.memory(), ranges);
                     return OpRun{[=, &context = o.context()] {
                       ops::hash_messages(context, *plan, values, hashes);
                     }};
                   }});
}

}  // namespace

void add_update_cases(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Blocks blocks = blocks_of(shapes.model);
  add_gradient_stats(shapes, blocks, cases);
  add_transfers(shapes, blocks, cases);
  add_update(shapes, blocks, cases);
  add_hash(shapes, blocks, cases);
}

}  // namespace lockstep::launcher
