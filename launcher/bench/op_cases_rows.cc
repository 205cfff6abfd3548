#include <fmt/format.h>

#include "launcher/bench/op_cases.h"
#include "models/mlp.h"
#include "ops/activation.h"
#include "ops/dropout.h"
#include "ops/layer_norm.h"
#include "ops/residual.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

// What works on the rows of a stream: norms, residuals, activations, rotation, dropout.
namespace lockstep::launcher {

namespace {

using core::DType;
using core::Shape;
using core::TensorView;
using ops::ActivationFunction;

constexpr double kEps = 1e-5;

struct Rows {
  DType dtype;
  Shape stream;
  Shape wide;        // of the MLP
  Shape statistics;  // of a norm
  Shape row;
  std::string shape;       // for people
  std::string wide_shape;  // for people
};

Rows rows_of(const OpShapes& shapes) {
  const std::int64_t rows = shapes.tokens();
  const std::int64_t width = shapes.model.width;
  const std::int64_t ffn = shapes.model.ffn_width;
  return {shapes.dtype,
          {rows, width},
          {rows, ffn},
          {rows},
          {width},
          fmt::format("{} x {}", rows, width),
          fmt::format("{} x {}", rows, ffn)};
}

// Two norms a block and the last one.
double norm_calls(const OpShapes& shapes, models::NormKind kind) {
  return shapes.model.norm == kind ? static_cast<double>(2 * shapes.model.layers + 1) : 0.0;
}

void add_layer_norm(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  const double calls = norm_calls(shapes, models::NormKind::kLayerNorm);
  cases.push_back({"layer_norm_forward", "norm", r.shape, calls, 0.0, [=](Operands& o) {
                     const TensorView x = o.read(r.dtype, r.stream);
                     const TensorView gain = o.read(r.dtype, r.row);
                     const TensorView bias = o.read(r.dtype, r.row);
                     const TensorView y = o.write(r.dtype, r.stream);
                     const TensorView mean = o.write(DType::kF32, r.statistics);
                     const TensorView rstd = o.write(DType::kF32, r.statistics);
                     return OpRun{[=, &context = o.context()] {
                       ops::layer_norm_forward(context, x, gain, bias, kEps, y, mean, rstd);
                     }};
                   }});
  cases.push_back(
      {"layer_norm_backward", "norm, residual added", r.shape, calls, 0.0, [=](Operands& o) {
         const TensorView dy = o.read(r.dtype, r.stream);
         const TensorView x = o.read(r.dtype, r.stream);
         const TensorView add = o.read(r.dtype, r.stream);
         const TensorView gain = o.read(r.dtype, r.row);
         const TensorView mean = o.read(DType::kF32, r.statistics);
         const TensorView rstd = o.read(DType::kF32, r.statistics);
         const TensorView dx = o.write(r.dtype, r.stream);
         const TensorView dgain = o.write(r.dtype, r.row);
         const TensorView dbias = o.write(r.dtype, r.row);
         return OpRun{[=, &context = o.context()] {
           ops::layer_norm_backward(context, dy, x, gain, mean, rstd, add, dx, dgain, dbias);
         }};
       }});
}

void add_rms_norm(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  const double calls = norm_calls(shapes, models::NormKind::kRmsNorm);
  cases.push_back({"rms_norm_forward", "norm", r.shape, calls, 0.0, [=](Operands& o) {
                     const TensorView x = o.read(r.dtype, r.stream);
                     const TensorView gain = o.read(r.dtype, r.row);
                     const TensorView y = o.write(r.dtype, r.stream);
                     const TensorView rstd = o.write(DType::kF32, r.statistics);
                     return OpRun{[=, &context = o.context()] {
                       ops::rms_norm_forward(context, x, gain, kEps, 1, y, rstd);
                     }};
                   }});
  cases.push_back(
      {"rms_norm_backward", "norm, residual added", r.shape, calls, 0.0, [=](Operands& o) {
         const TensorView dy = o.read(r.dtype, r.stream);
         const TensorView x = o.read(r.dtype, r.stream);
         const TensorView add = o.read(r.dtype, r.stream);
         const TensorView gain = o.read(r.dtype, r.row);
         const TensorView rstd = o.read(DType::kF32, r.statistics);
         const TensorView dx = o.write(r.dtype, r.stream);
         const TensorView dgain = o.write(r.dtype, r.row);
         return OpRun{[=, &context = o.context()] {
           ops::rms_norm_backward(context, dy, x, gain, rstd, 1, add, dx, dgain);
         }};
       }});
}

void add_residual(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  const auto calls = static_cast<double>(2 * shapes.model.layers);
  cases.push_back({"residual_forward", "stream", r.shape, calls, 0.0, [=](Operands& o) {
                     const TensorView x = o.read(r.dtype, r.stream);
                     const TensorView branch = o.read(r.dtype, r.stream);
                     const TensorView y = o.write(r.dtype, r.stream);
                     return OpRun{[=, &context = o.context()] {
                       ops::residual_forward(context, x, branch, {}, {}, y);
                     }};
                   }});
  // Without a gate and dropout the gradient of a branch is that of the stream itself.
  cases.push_back({"residual_backward", "gated", r.shape, 0.0, 0.0, [=](Operands& o) {
                     const TensorView dy = o.read(r.dtype, r.stream);
                     const TensorView branch = o.read(r.dtype, r.stream);
                     const TensorView gate = o.read(r.dtype, {1});
                     const TensorView dbranch = o.write(r.dtype, r.stream);
                     const TensorView dgate = o.write(r.dtype, {1});
                     return OpRun{[=, &context = o.context()] {
                       ops::residual_backward(context, dy, branch, gate, {}, dbranch, dgate);
                     }};
                   }});
}

// Where the model has no gate, products do this in the same pass (see the products).
void add_activation(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  const ActivationFunction f = models::pointwise_function(shapes.model.activation);
  cases.push_back(
      {"activation_forward", "mlp", r.wide_shape, 0.0, 0.0, [=](Operands& o) {
         const TensorView x = o.read(r.dtype, r.wide);
         const TensorView y = o.write(r.dtype, r.wide);
         return OpRun{[=, &context = o.context()] { ops::activation_forward(context, f, x, y); }};
       }});
  cases.push_back({"activation_backward", "mlp", r.wide_shape, 0.0, 0.0, [=](Operands& o) {
                     const TensorView x = o.read(r.dtype, r.wide);
                     const TensorView dy = o.read(r.dtype, r.wide);
                     const TensorView dx = o.write(r.dtype, r.wide);
                     return OpRun{[=, &context = o.context()] {
                       ops::activation_backward(context, f, x, dy, dx);
                     }};
                   }});
}

void add_gated_activation(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  const double calls = shapes.model.gated() ? static_cast<double>(shapes.model.layers) : 0.0;
  const ActivationFunction f = models::pointwise_function(shapes.model.activation);
  cases.push_back({"gated_activation_forward", "mlp", r.wide_shape, calls, 0.0, [=](Operands& o) {
                     const TensorView gate = o.read(r.dtype, r.wide);
                     const TensorView up = o.read(r.dtype, r.wide);
                     const TensorView y = o.write(r.dtype, r.wide);
                     return OpRun{[=, &context = o.context()] {
                       ops::gated_activation_forward(context, f, gate, up, y);
                     }};
                   }});
  cases.push_back({"gated_activation_backward", "mlp", r.wide_shape, calls, 0.0, [=](Operands& o) {
                     const TensorView gate = o.read(r.dtype, r.wide);
                     const TensorView up = o.read(r.dtype, r.wide);
                     const TensorView dy = o.read(r.dtype, r.wide);
                     const TensorView dgate = o.write(r.dtype, r.wide);
                     const TensorView dup = o.write(r.dtype, r.wide);
                     return OpRun{[=, &context = o.context()] {
                       ops::gated_activation_backward(context, f, gate, up, dy, dgate, dup);
                     }};
                   }});
}

// Queries and keys are rotated where they lie, in the row that holds the values too.
void add_rope(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  const models::ModelConfig& model = shapes.model;
  const bool used = model.positions == models::Positions::kRope;
  const double calls = used ? static_cast<double>(2 * model.layers) : 0.0;  // both ways
  const std::int64_t packed = model.qkv_width();
  const std::int64_t head_width = model.head_width();
  const std::int64_t context_length = model.context;
  const std::pair<const char*, std::int64_t> parts[] = {{"queries", model.q_width()},
                                                        {"keys", model.kv_width()}};
  for (const auto& [part, width] : parts) {
    const auto prepare = [=, columns = width](Operands& o) {
      const Shape table{context_length, head_width / 2};
      const TensorView cosines = o.uncounted(DType::kF32, table);
      const TensorView sines = o.uncounted(DType::kF32, table);
      ops::fill_rope_table(o.context(), 10000.0, {}, cosines, sines);
      const TensorView x = o.uncounted(r.dtype, {r.stream[0], packed}).slice_cols(0, columns);
      o.count(x);
      o.count(x);
      return OpRun{[=, &context = o.context()] {
        ops::rope(context, ops::RopeDirection::kForward, context_length, head_width, cosines, sines,
                  x);
      }};
    };
    cases.push_back(
        {"rope", part, fmt::format("{} x {}", r.stream[0], width), calls, 0.0, prepare});
  }
}

void add_dropout(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Rows r = rows_of(shapes);
  ops::Dropout dropout;
  dropout.probability = 0.1;
  dropout.key = {1, 2};
  dropout.sequence_rows = shapes.model.context;
  cases.push_back({"dropout", "stream", r.shape, 0.0, 0.0, [=](Operands& o) {
                     const TensorView x = o.read(r.dtype, r.stream);
                     const TensorView y = o.write(r.dtype, r.stream);
                     return OpRun{
                         [=, &context = o.context()] { ops::dropout(context, x, dropout, y); }};
                   }});
}

}  // namespace

void add_row_cases(const OpShapes& shapes, std::vector<OpCase>& cases) {
  add_layer_norm(shapes, cases);
  add_rms_norm(shapes, cases);
  add_residual(shapes, cases);
  add_activation(shapes, cases);
  add_gated_activation(shapes, cases);
  add_rope(shapes, cases);
  add_dropout(shapes, cases);
}

}  // namespace lockstep::launcher
