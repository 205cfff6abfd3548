#pragma once

#include "ops/activation.h"
#include "ops/embedding.h"
#include "ops/first_nonfinite.h"
#include "ops/gradient_stats.h"
#include "ops/hash.h"
#include "ops/muon.h"
#include "ops/optimizer_update.h"
#include "ops/residual.h"

// Bodies on the CPU of the ops of the same name and meaning in ops/*.h. They trust their
// arguments: the ops check device, shape and dtype before they call.
namespace lockstep::ops::cpu {

void layer_norm_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView gain,
                        core::ConstTensorView bias, double eps, core::TensorView y,
                        core::TensorView mean, core::TensorView rstd);
void layer_norm_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                         core::ConstTensorView gain, core::ConstTensorView mean,
                         core::ConstTensorView rstd, core::ConstTensorView add, core::TensorView dx,
                         core::TensorView dgain, core::TensorView dbias);

void rms_norm_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView gain,
                      double eps, std::int64_t heads, core::TensorView y, core::TensorView rstd);
void rms_norm_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                       core::ConstTensorView gain, core::ConstTensorView rstd, std::int64_t heads,
                       core::ConstTensorView add, core::TensorView dx, core::TensorView dgain);

void residual_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView branch,
                      core::ConstTensorView gate, const Dropout& dropout, core::TensorView y);
void residual_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView branch,
                       core::ConstTensorView gate, const Dropout& dropout, core::TensorView dbranch,
                       core::TensorView dgate);

void activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                        core::TensorView y);
void activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                         core::ConstTensorView dy, core::TensorView dx);
void gated_activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView gate,
                              core::ConstTensorView up, core::TensorView y);
void gated_activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView gate,
                               core::ConstTensorView up, core::ConstTensorView dy,
                               core::TensorView dgate, core::TensorView dup);

void embedding_forward(OpContext& context, std::span<const std::int32_t> tokens,
                       std::int64_t length, core::ConstTensorView token_table,
                       core::ConstTensorView positions, core::ConstTensorView type_row,
                       core::TensorView out);
void embedding_backward(OpContext& context, std::span<const std::int32_t> tokens,
                        core::ConstTensorView dx, std::int64_t row_begin, std::int64_t row_end,
                        core::ConstTensorView add, core::TensorView dtable);
void position_backward(OpContext& context, core::ConstTensorView dx, std::int64_t length,
                       core::TensorView dpositions);

NonFinite count_nonfinite(OpContext& context, core::ConstTensorView x);
void count_nonfinite_ranges(OpContext& context, core::ConstTensorView x,
                            std::span<const Range> ranges, NonFinite* counts);
void first_nonfinite(OpContext& context, std::span<const core::ConstTensorView> views,
                     const double* loss, std::int64_t* first, std::int64_t number_of_first);
void sums_of_squares(OpContext& context, core::ConstTensorView x, std::span<const Range> ranges,
                     SumOfSquares* sums);

void cast(OpContext& context, core::ConstTensorView from, core::TensorView to);
void hash_messages(OpContext& context, const HashPlan& plan, core::ConstTensorView base,
                   std::uint64_t* hashes);

void scale(OpContext& context, double factor, core::TensorView x);

void accumulate(OpContext& context, core::ConstTensorView values, bool overwrite,
                core::TensorView sum);

void muon_momentum(OpContext& context, const MuonMomentum& rule, const std::int32_t* apply,
                   UpdateFactor factor, float clamp, core::ConstTensorView gradient,
                   core::TensorView moment, core::TensorView direction);
void divide_by_norm(OpContext& context, core::ConstTensorView u, const SumOfSquares* squares,
                    float eps, core::TensorView out);
void weighted_sum(OpContext& context, float a, core::ConstTensorView x, float b,
                  core::ConstTensorView y, core::TensorView out);

void optimizer_update(OpContext& context, const UpdateRule& rule, bool decay, UpdateFactor factor,
                      float clamp, core::ConstTensorView gradient, core::TensorView master,
                      core::TensorView state0, core::TensorView state1, core::TensorView parameter);
void optimizer_update_runs(OpContext& context, const UpdateRule& rule, const UpdatePlan& plan,
                           const RunFactors& factors, float clamp);
void optimizer_update_chosen(OpContext& context, std::span<const UpdateRule> rules,
                             const UpdatePlan& plan, const UpdateChoice* choice,
                             std::span<const float> by_run, float clamp);

}  // namespace lockstep::ops::cpu
