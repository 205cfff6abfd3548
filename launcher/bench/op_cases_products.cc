#include <fmt/format.h>

#include <cmath>

#include "launcher/bench/op_cases.h"
#include "models/ops/attention.h"
#include "models/ops/matmul.h"
#include "models/ops/reduce.h"

// Matrix products of the model's linear layers, and attention.
namespace lockstep::launcher {

namespace {

using core::DType;
using core::Shape;
using core::TensorView;
using models::ops::AttentionSpec;
using models::ops::Transpose;

// y = x W^T + b, W: [out, in].
struct Linear {
  std::string name;
  std::int64_t out = 0;
  std::int64_t in = 0;
  double calls = 0.0;  // in a micro-batch
  bool bias = false;
};

std::vector<Linear> linear_layers(const models::ModelConfig& model) {
  const auto layers = static_cast<double>(model.layers);
  std::vector<Linear> linears;
  if (model.family == models::Family::kGpt) {
    linears.push_back(
        {"attention.qkv", model.width + 2 * model.kv_width(), model.width, layers, model.bias});
    linears.push_back({"attention.out", model.width, model.width, layers, model.bias});
  } else {
    // The projection of queries has the shape of the one of the output.
    linears.push_back({"attention.q,out", model.width, model.width, 2 * layers, model.bias});
    linears.push_back({"attention.k,v", model.kv_width(), model.width, 2 * layers, model.bias});
  }
  const double ups = model.gated() ? 2 * layers : layers;
  linears.push_back({"mlp.up", model.ffn_width, model.width, ups, model.bias});
  linears.push_back({"mlp.down", model.width, model.ffn_width, layers, model.bias});
  return linears;
}

// out[m, n] = op(a)[m, k] op(b)[k, n] + bias.
struct ProductSizes {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};
struct ProductOperands {
  TensorView a;
  Transpose transpose_a;
  TensorView b;
  Transpose transpose_b;
  TensorView out;
  TensorView bias = {};
};

void add_product(std::vector<OpCase>& cases, const std::string& part, const ProductSizes& sizes,
                 double calls, const std::function<ProductOperands(Operands&)>& operands) {
  const double operations = 2.0 * static_cast<double>(sizes.m) * static_cast<double>(sizes.n) *
                            static_cast<double>(sizes.k);
  cases.push_back({"matmul", part, fmt::format("{} x {} x {}", sizes.m, sizes.n, sizes.k), calls,
                   operations, [=](Operands& o) {
                     const ProductOperands p = operands(o);
                     return OpRun{[=, &context = o.context()] {
                       models::ops::matmul(context, p.a, p.transpose_a, p.b, p.transpose_b, p.out,
                                           p.bias);
                     }};
                   }});
}

// The three products of a linear layer, on the operands that it reads and writes: x, W, y or their
// gradients.
using MakeOperand = std::function<TensorView(Operands&)>;
struct LinearOperands {
  MakeOperand input;
  MakeOperand weight;
  MakeOperand output;
  MakeOperand bias;
  MakeOperand dinput;
  MakeOperand dweight;
  MakeOperand doutput;
};

void add_linear_products(std::vector<OpCase>& cases, const Linear& linear, std::int64_t rows,
                         const LinearOperands& make) {
  add_product(cases, linear.name + " forward", {rows, linear.out, linear.in}, linear.calls,
              [=](Operands& o) {
                return ProductOperands{make.input(o),   Transpose::kNo, make.weight(o),
                                       Transpose::kYes, make.output(o), make.bias(o)};
              });
  add_product(cases, linear.name + " input backward", {rows, linear.in, linear.out}, linear.calls,
              [=](Operands& o) {
                return ProductOperands{make.doutput(o), Transpose::kNo, make.weight(o),
                                       Transpose::kNo, make.dinput(o)};
              });
  add_product(cases, linear.name + " weight backward", {linear.out, linear.in, rows}, linear.calls,
              [=](Operands& o) {
                return ProductOperands{make.doutput(o), Transpose::kYes, make.input(o),
                                       Transpose::kNo, make.dweight(o)};
              });
}

void add_linear(const OpShapes& shapes, const Linear& linear, std::vector<OpCase>& cases) {
  const std::int64_t rows = shapes.tokens();
  const auto of = [dtype = shapes.dtype](std::int64_t n, std::int64_t m) {
    return [=](Operands& o) { return o.read(dtype, {n, m}); };  // each counts once, read or written
  };
  const DType dtype = shapes.dtype;
  const auto bias = [=](Operands& o) {
    return linear.bias ? o.read(dtype, {linear.out}) : TensorView{};
  };
  const auto x = of(rows, linear.in);
  const auto w = of(linear.out, linear.in);
  const auto y = of(rows, linear.out);
  add_linear_products(cases, linear, rows, {x, w, y, bias, x, w, y});
  cases.push_back(
      {"column_sum", linear.name + " bias backward", fmt::format("{} x {}", rows, linear.out),
       linear.bias ? linear.calls : 0.0, 0.0, [=](Operands& o) {
         const TensorView dy = o.read(dtype, {rows, linear.out});
         const TensorView db = o.write(dtype, {linear.out});
         return OpRun{[=, &context = o.context()] { models::ops::column_sum(context, dy, db); }};
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
  add_linear_products(cases, {"head", vocab, width, 1.0, false}, rows,
                      {x, w, logits, none, x, dw, dlogits});
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
  const std::int64_t width = shapes.model.width;
  const std::int64_t kv_width = shapes.model.kv_width();
  const TensorView qkv = o.read(shapes.dtype, {shapes.tokens(), width + 2 * kv_width});
  return {qkv.slice_cols(0, width), qkv.slice_cols(width, width + kv_width),
          qkv.slice_cols(width + kv_width, width + 2 * kv_width)};
}

// Pairs of a query and a key that a causal mask leaves count, others do not.
void add_attention(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const AttentionSpec spec = attention_spec(shapes);
  const Shape stream{shapes.tokens(), shapes.model.width};
  const Shape statistics{spec.sequences * spec.heads, spec.length};
  const std::string shape =
      fmt::format("{} x {} heads x {} x {}{}", spec.sequences, spec.heads, spec.length,
                  spec.head_width, spec.causal ? ", causal" : "");
  const double pairs = static_cast<double>(shapes.tokens() * spec.length) *
                       (spec.causal ? 0.5 : 1.0) * static_cast<double>(shapes.model.width);
  const auto calls = static_cast<double>(shapes.model.layers);
  const DType dtype = shapes.dtype;
  cases.push_back({"attention_forward", "attention", shape, calls, 4.0 * pairs, [=](Operands& o) {
                     const Heads heads = packed_heads(o, shapes);
                     const TensorView out = o.write(dtype, stream);
                     const TensorView lse = o.write(DType::kF32, statistics);
                     return OpRun{[=, &context = o.context()] {
                       models::ops::attention_forward(context, spec, heads.q, heads.k, heads.v, out,
                                                      lse);
                     }};
                   }});
  cases.push_back(
      {"attention_backward", "attention", shape, calls, 10.0 * pairs, [=](Operands& o) {
         const Heads heads = packed_heads(o, shapes);
         const Heads gradient = packed_heads(o, shapes);  // counted as written
         const TensorView dout = o.read(dtype, stream);
         const TensorView out = o.read(dtype, stream);
         const TensorView lse = o.read(DType::kF32, statistics);
         models::ops::attention_forward(o.context(), spec, heads.q, heads.k, heads.v, out, lse);
         return OpRun{[=, &context = o.context()] {
           models::ops::attention_backward(context, spec, dout, heads.q, heads.k, heads.v, out, lse,
                                           gradient.q, gradient.k, gradient.v);
         }};
       }});
}

}  // namespace

void add_product_cases(const OpShapes& shapes, std::vector<OpCase>& cases) {
  for (const Linear& linear : linear_layers(shapes.model))
    add_linear(shapes, linear, cases);
  add_head(shapes, cases);
  add_attention(shapes, cases);
}

}  // namespace lockstep::launcher
