#include <fmt/format.h>

#include "launcher/bench/op_cases.h"
#include "models/ops/accumulate.h"
#include "models/ops/gradient_stats.h"
#include "models/ops/optimizer_update.h"
#include "models/parameter_table.h"

// What happens to gradients and parameters, in pieces as large as the largest tensor of a block.
namespace lockstep::launcher {

namespace {

using core::DType;
using core::Shape;
using core::TensorView;

struct Pieces {
  std::int64_t elements = 0;  // of one
  double count = 0.0;         // of the model
};

Pieces pieces_of(const models::ModelConfig& model) {
  const std::int64_t elements = model.ffn_width * model.width;
  const std::int64_t all = models::ParameterTable(model).total_elements();
  return {elements, static_cast<double>(all) / static_cast<double>(elements)};
}

void add_gradient_stats(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Pieces pieces = pieces_of(shapes.model);
  const std::string shape = fmt::format("{}", pieces.elements);
  const DType dtype = shapes.dtype;
  cases.push_back({"accumulate", "leaf onto fp32 sum", shape, pieces.count, 0.0, [=](Operands& o) {
                     const TensorView values = o.read(dtype, {pieces.elements});
                     const TensorView sum = o.update(DType::kF32, {pieces.elements});
                     return OpRun{[=, &context = o.context()] {
                       models::ops::accumulate(context, values, false, sum);
                     }};
                   }});
  cases.push_back({"count_nonfinite", "leaf", shape, pieces.count, 0.0, [=](Operands& o) {
                     const TensorView values = o.read(dtype, {pieces.elements});
                     return OpRun{[=, &context = o.context()] {
                       models::ops::count_nonfinite(context, values);
                     }};
                   }});
  cases.push_back({"block_sums_of_squares", "gradient", shape, pieces.count, 0.0, [=](Operands& o) {
                     const TensorView values = o.read(DType::kF32, {pieces.elements});
                     const std::int64_t blocks =
                         (pieces.elements + models::ops::kNormBlock - 1) / models::ops::kNormBlock;
                     const TensorView sums = o.write(DType::kF64, {blocks});
                     return OpRun{[=, &context = o.context()] {
                       models::ops::block_sums_of_squares(context, values, sums.data<double>());
                     }};
                   }});
}

// AdamW; the master is the parameter itself when that is fp32.
void add_update(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Pieces pieces = pieces_of(shapes.model);
  const Shape shape{pieces.elements};
  const DType dtype = shapes.dtype;
  models::ops::UpdateRule rule;
  rule.learning_rate = 1e-6;
  rule.weight_decay = 0.1;
  cases.push_back({"optimizer_update", "adamw", fmt::format("{}", pieces.elements), pieces.count,
                   0.0, [=](Operands& o) {
                     const TensorView gradient = o.read(DType::kF32, shape);
                     const TensorView master = o.update(DType::kF32, shape);
                     const TensorView mean = o.update(DType::kF32, shape);
                     const TensorView squares =  // of which the root is taken
                         o.uncounted(DType::kF32, shape, RandomPool::Kind::kUnit);
                     o.count(squares);
                     o.count(squares);
                     const TensorView parameter =
                         dtype == DType::kF32 ? TensorView{} : o.write(dtype, shape);
                     return OpRun{[=, &context = o.context()] {
                       models::ops::optimizer_update(context, rule, true, 1.0F, 0.0F, gradient,
                                                     master, mean, squares, parameter);
                     }};
                   }});
}

}  // namespace

void add_update_cases(const OpShapes& shapes, std::vector<OpCase>& cases) {
  add_gradient_stats(shapes, cases);
  add_update(shapes, cases);
}

}  // namespace lockstep::launcher
