#include <fmt/format.h>

#include <cmath>

#include "launcher/bench/op_cases.h"
#include "models/mlp.h"
#include "ops/attention.h"
#include "ops/fused_matmul.h"
#include "ops/matmul.h"
#include "ops/reduce.h"

// Matrix products of the model's linear layers, and attention.
namespace lockstep::launcher {

namespace {

using core::DType;
using core::Shape;
using core::TensorView;
using ops::AttentionSpec;
using ops::Transpose;

// y = x W^T + b, W: [out, in]. Of how many in a micro-batch each product is an op of its own; those
// beside an activation are fused with it.
struct Linear {
  std::string name;
  std::int64_t out = 0;
  std::int64_t in = 0;
  double calls = 0.0;  // in a micro-batch
  bool bias = false;
  bool forward_fused = false;  // with the activation that follows
  bool input_fused =
      false;  // backward with the activation before; this layer's input is f's output

  // The gradient of the bias comes from the product that knows f'.
  bool bias_with_weight() const { return bias && !forward_fused; }
};

std::vector<Linear> linear_layers(const models::ModelConfig& model) {
  const auto layers = static_cast<double>(model.layers);
  const std::int64_t width = model.width;
  std::vector<Linear> linears;
  if (model.family == models::Family::kGpt) {
    linears.push_back({"attention.qkv", model.qkv_width(), width, layers, model.qkv_bias()});
    linears.push_back({"attention.out", width, model.q_width(), layers, model.linear_bias()});
  } else {
    linears.push_back({"attention.q", model.q_width(), width, layers, model.qkv_bias()});
    linears.push_back({"attention.out", width, model.q_width(), layers, model.linear_bias()});
    linears.push_back({"attention.k,v", model.kv_width(), width, 2 * layers, model.qkv_bias()});
  }
  const bool fused = !model.gated();
  const double ups = model.gated() ? 2 * layers : layers;
  linears.push_back({"mlp.up", model.ffn_width, width, ups, model.linear_bias(), fused, false});
  linears.push_back(
      {"mlp.down", width, model.ffn_width, layers, model.linear_bias(), false, fused});
  return linears;
}

std::string product_shape(std::int64_t m, std::int64_t n, std::int64_t k) {
  return fmt::format("{} x {} x {}", m, n, k);
}

double product_operations(std::int64_t m, std::int64_t n, std::int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

// Makes an operand of a linear layer of so many rows: x, W, y or their gradients, or nothing.
using MakeOperand = std::function<TensorView(Operands&)>;
struct LinearOperands {
  MakeOperand input;
  MakeOperand weight;
  MakeOperand output;
  MakeOperand bias;
  MakeOperand dinput;
  MakeOperand dweight;
  MakeOperand doutput;
  MakeOperand dbias;
};

void add_linear_products(std::vector<OpCase>& cases, const Linear& linear, std::int64_t rows,
                         const LinearOperands& make) {
  const double operations = product_operations(rows, linear.out, linear.in);
  cases.push_back({"matmul", linear.name + " forward", product_shape(rows, linear.out, linear.in),
                   linear.forward_fused ? 0.0 : linear.calls, operations, [=](Operands& o) {
                     const TensorView x = make.input(o);
                     const TensorView w = make.weight(o);
                     const TensorView y = make.output(o);
                     const TensorView bias = make.bias(o);
                     return OpRun{[=, &context = o.context()] {
                       ops::matmul(context, x, Transpose::kNo, w, Transpose::kYes, y, bias);
                     }};
                   }});
  cases.push_back({"matmul", linear.name + " input backward",
                   product_shape(rows, linear.in, linear.out),
                   linear.input_fused ? 0.0 : linear.calls, operations, [=](Operands& o) {
                     const TensorView dy = make.doutput(o);
                     const TensorView w = make.weight(o);
                     const TensorView dx = make.dinput(o);
                     return OpRun{[=, &context = o.context()] {
                       ops::matmul(context, dy, Transpose::kNo, w, Transpose::kNo, dx);
                     }};
                   }});
  cases.push_back(
      {"matmul_weight_gradient", linear.name + (linear.bias_with_weight() ? " and bias" : ""),
       product_shape(linear.out, linear.in, rows), linear.calls, operations, [=](Operands& o) {
         const TensorView dy = make.doutput(o);
         const TensorView x = make.input(o);
         const TensorView dw = make.dweight(o);
         const TensorView db = make.dbias(o);
         return OpRun{
             [=, &context = o.context()] { ops::matmul_weight_gradient(context, dy, x, dw, db); }};
       }});
}

// What a linear layer does together with the activation behind it (up) or before it (down).
void add_fused_products(const OpShapes& shapes, const Linear& linear, const LinearOperands& make,
                        std::vector<OpCase>& cases) {
  const std::int64_t rows = shapes.tokens();
  const ops::ActivationFunction f = models::pointwise_function(shapes.model.activation);
  const double operations = product_operations(rows, linear.out, linear.in);
  if (linear.forward_fused) {
    cases.push_back({"matmul_activation_forward", linear.name,
                     product_shape(rows, linear.out, linear.in), linear.calls, operations,
                     [=](Operands& o) {
                       const TensorView x = make.input(o);
                       const TensorView w = make.weight(o);
                       const TensorView bias = make.bias(o);
                       const TensorView pre = make.output(o);
                       const TensorView y = make.output(o);
                       return OpRun{[=, &context = o.context()] {
                         ops::matmul_activation_forward(context, f, x, w, bias, pre, y);
                       }};
                     }});
  }
  if (linear.input_fused) {
    cases.push_back(
        {"matmul_activation_backward", linear.name + " and bias before",
         product_shape(rows, linear.in, linear.out), linear.calls, operations, [=](Operands& o) {
           const TensorView dy = make.doutput(o);
           const TensorView w = make.weight(o);
           const TensorView pre = make.input(o);
           const TensorView dpre = make.dinput(o);
           const TensorView dbias = linear.bias ? o.write(shapes.dtype, {linear.in}) : TensorView{};
           return OpRun{[=, &context = o.context()] {
             ops::matmul_activation_backward(context, f, dy, w, pre, dpre, dbias);
           }};
         }});
  }
}

void add_linear(const OpShapes& shapes, const Linear& linear, std::vector<OpCase>& cases) {
  const std::int64_t rows = shapes.tokens();
  // Each counts once, whether it is read or written.
  const auto of = [dtype = shapes.dtype](core::Shape shape, bool present = true) {
    return [=](Operands& o) { return present ? o.read(dtype, shape) : TensorView{}; };
  };
  const auto x = of({rows, linear.in});
  const auto w = of({linear.out, linear.in});
  const auto y = of({rows, linear.out});
  const LinearOperands make = {x, w, y, of({linear.out}, linear.bias),
                               x, w, y, of({linear.out}, linear.bias_with_weight())};
  add_linear_products(cases, linear, rows, make);
  add_fused_products(shapes, linear, make, cases);
}

// Biases of which no product gives the gradient, and what the fused products save.
void add_column_sum(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const Shape shape{shapes.tokens(), shapes.model.ffn_width};
  cases.push_back({"column_sum", "mlp.up bias", fmt::format("{} x {}", shape[0], shape[1]), 0.0,
                   0.0, [=, dtype = shapes.dtype](Operands& o) {
                     const TensorView dy = o.read(dtype, shape);
                     const TensorView db = o.write(dtype, {shape[1]});
                     return OpRun{
                         [=, &context = o.context()] { ops::column_sum(context, dy, db); }};
                   }});
}

// Logits are in fp32; their gradient, in the compute type, lies in the first part of their rows.
// The head's share of a tied table's gradient is in fp32.
void add_head(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const std::int64_t rows = shapes.tokens();
  const std::int64_t width = shapes.model.width;
  const std::int64_t vocab = shapes.model.vocab;
  const DType dtype = shapes.dtype;
  const DType share = shapes.model.tie_embeddings ? DType::kF32 : dtype;
  const auto ratio = static_cast<std::int64_t>(sizeof(float) / core::size_of(dtype));
  const auto x = [=](Operands& o) { return o.read(dtype, {rows, width}); };
  const auto w = [=](Operands& o) { return o.read(dtype, {vocab, width}); };
  const auto dw = [=](Operands& o) { return o.write(share, {vocab, width}); };
  const auto logits = [=](Operands& o) { return o.write(DType::kF32, {rows, vocab}); };
  const auto dlogits = [=](Operands& o) {
    const TensorView memory = o.uncounted(dtype, {rows, vocab * ratio});
    const TensorView view(memory.raw(), dtype, {rows, vocab}, vocab * ratio, memory.device());
    o.count(view);
    return view;
  };
  const auto none = [](Operands&) { return TensorView{}; };
  add_linear_products(cases, {"head", vocab, width, 1.0}, rows,
                      {x, w, logits, none, x, dw, dlogits, none});
}

AttentionSpec attention_spec(const OpShapes& shapes) {
  AttentionSpec spec;
  spec.sequences = shapes.sequences;
  spec.length = shapes.model.context;
  spec.heads = shapes.model.heads;
  spec.kv_heads = shapes.model.kv_heads;
  spec.head_width = shapes.model.head_width();
  spec.causal = shapes.model.causal();
  spec.scale = 1.0 / std::sqrt(static_cast<double>(spec.head_width));
  return spec;
}

// Queries, keys and values lie side by side in one row, as the projections leave them.
struct Heads {
  TensorView q;
  TensorView k;
  TensorView v;
};

Heads packed_heads(Operands& o, const OpShapes& shapes) {
  const std::int64_t width = shapes.model.q_width();
  const std::int64_t kv_width = shapes.model.kv_width();
  const TensorView qkv = o.read(shapes.dtype, {shapes.tokens(), width + 2 * kv_width});
  return {qkv.slice_cols(0, width), qkv.slice_cols(width, width + kv_width),
          qkv.slice_cols(width + kv_width, width + 2 * kv_width)};
}

// Pairs of a query and a key that a causal mask leaves count, others do not.
void add_attention(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const AttentionSpec spec = attention_spec(shapes);
  const Shape stream{shapes.tokens(), shapes.model.q_width()};
  const Shape statistics{spec.sequences * spec.heads, spec.length};
  const std::string shape =
      fmt::format("{} x {} heads x {} x {}{}", spec.sequences, spec.heads, spec.length,
                  spec.head_width, spec.causal ? ", causal" : "");
  const double pairs = static_cast<double>(shapes.tokens() * spec.length) *
                       (spec.causal ? 0.5 : 1.0) * static_cast<double>(shapes.model.q_width());
  const auto calls = static_cast<double>(shapes.model.layers);
  const DType dtype = shapes.dtype;
  cases.push_back({"attention_forward", "attention", shape, calls, 4.0 * pairs, [=](Operands& o) {
                     const Heads heads = packed_heads(o, shapes);
                     const TensorView out = o.write(dtype, stream);
                     const TensorView lse = o.write(DType::kF32, statistics);
                     return OpRun{[=, &context = o.context()] {
                       ops::attention_forward(context, spec, heads.q, heads.k, heads.v, out, lse);
                     }};
                   }});
  cases.push_back({"attention_backward", "attention", shape, calls, 10.0 * pairs, [=](Operands& o) {
                     const Heads heads = packed_heads(o, shapes);
                     const Heads gradient = packed_heads(o, shapes);  // counted as written
                     const TensorView dout = o.read(dtype, stream);
                     const TensorView out = o.read(dtype, stream);
                     const TensorView lse = o.read(DType::kF32, statistics);
                     ops::attention_forward(o.context(), spec, heads.q, heads.k, heads.v, out, lse);
                     return OpRun{[=, &context = o.context()] {
                       ops::attention_backward(context, spec, dout, heads.q, heads.k, heads.v, out,
                                               lse, gradient.q, gradient.k, gradient.v);
                     }};
                   }});
}

}  // namespace

void add_product_cases(const OpShapes& shapes, std::vector<OpCase>& cases) {
  for (const Linear& linear : linear_layers(shapes.model))
    add_linear(shapes, linear, cases);
  add_column_sum(shapes, cases);
  add_head(shapes, cases);
  add_attention(shapes, cases);
}

}  // namespace lockstep::launcher
