#include <fmt/format.h>

#include "launcher/bench/op_cases.h"
#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "ops/transfer.h"

// Where tokens come in and the loss goes out.
namespace lockstep::launcher {

namespace {

using core::DType;
using core::Shape;
using core::TensorView;

void add_embedding(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const std::int64_t rows = shapes.tokens();
  const std::int64_t length = shapes.model.context;
  const std::int64_t width = shapes.model.width;
  const std::int64_t vocab = shapes.model.vocab;
  const bool learned = shapes.model.positions == models::Positions::kLearned;
  const bool tied = shapes.model.tie_embeddings;
  const DType dtype = shapes.dtype;
  const std::string shape = fmt::format("{} of {} x {}", rows, vocab, width);
  cases.push_back(
      {"embedding_forward", "tokens", shape, 1.0, 0.0, [=](Operands& o) {
         const auto tokens = o.tokens(rows, vocab);
         const TensorView table = o.uncounted(dtype, {vocab, width});
         const TensorView positions = learned ? o.read(dtype, {length, width}) : TensorView{};
         const TensorView out = o.write(dtype, {rows, width});
         o.count(out);  // as many rows of the table are read
         return OpRun{[=, &context = o.context()] {
           ops::embedding_forward(context, tokens, length, table, positions, {}, out);
         }};
       }});
  cases.push_back(
      {"embedding_backward", tied ? "tokens, tied" : "tokens", shape, 1.0, 0.0, [=](Operands& o) {
         const auto tokens = o.tokens(rows, vocab);
         const TensorView dx = o.read(dtype, {rows, width});
         const TensorView add = tied ? o.read(DType::kF32, {vocab, width}) : TensorView{};
         const TensorView dtable = o.write(dtype, {vocab, width});
         return OpRun{[=, &context = o.context()] {
           ops::embedding_backward(context, tokens, dx, 0, vocab, add, dtable);
         }};
       }});
  cases.push_back({"position_backward", "positions", fmt::format("{} x {}", rows, width),
                   learned ? 1.0 : 0.0, 0.0, [=](Operands& o) {
                     const TensorView dx = o.read(dtype, {rows, width});
                     const TensorView dpositions = o.write(dtype, {length, width});
                     return OpRun{[=, &context = o.context()] {
                       ops::position_backward(context, dx, length, dpositions);
                     }};
                   }});
}

// The gradient takes the place of the logits, so that each call needs them anew.
OpRun cross_entropy_run(Operands& o, const OpShapes& shapes) {
  const std::int64_t rows = shapes.tokens();
  const std::int64_t vocab = shapes.model.vocab;
  const auto ratio = static_cast<std::int64_t>(sizeof(float) / core::size_of(shapes.dtype));
  const auto targets = o.tokens(rows, vocab);
  const TensorView kept = o.uncounted(DType::kF32, {rows, vocab});
  const TensorView logits = o.read(DType::kF32, {rows, vocab});
  const TensorView dlogits(logits.raw(), shapes.dtype, {rows, vocab}, vocab * ratio,
                           logits.device());
  o.count(dlogits);
  constexpr std::int64_t kNumbers = sizeof(ops::LossSums) / sizeof(double);
  auto* sums = static_cast<ops::LossSums*>(o.uncounted(DType::kF64, {kNumbers}).raw());
  ops::LossOptions options;
  options.gradient_weight = 1.0F / static_cast<float>(rows);
  ops::OpContext& context = o.context();
  return {
      [=, &context] { ops::cross_entropy(context, logits, targets, options, 0.0, dlogits, sums); },
      [=, &context] { ops::copy(context, kept, logits); }};
}

void add_loss(const OpShapes& shapes, std::vector<OpCase>& cases) {
  const std::string shape = fmt::format("{} x {}", shapes.tokens(), shapes.model.vocab);
  cases.push_back({"cross_entropy", "forward and backward, in place", shape, 1.0, 0.0,
                   [=](Operands& o) { return cross_entropy_run(o, shapes); }});
  cases.push_back(
      {"softcap_logits", "logits", shape, 0.0, 0.0, [=](Operands& o) {
         const TensorView logits = o.update(DType::kF32, {shapes.tokens(), shapes.model.vocab});
         return OpRun{[=, &context = o.context()] { ops::softcap_logits(context, 30.0, logits); }};
       }});
}

}  // namespace

void add_edge_cases(const OpShapes& shapes, std::vector<OpCase>& cases) {
  add_embedding(shapes, cases);
  add_loss(shapes, cases);
}

}  // namespace lockstep::launcher
