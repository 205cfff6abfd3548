#pragma once

#include "ops/op_bodies.h"

// Bodies on a device of the ops of the same name and meaning in ops/*.h, in kernels of our
// own. Each puts its work on the stream of the context. They compute in fp32, bf16 and fp16; sums
// go in orders that depend on the shape alone, so that the same call gives the same bits.
namespace lockstep::ops::cuda {

void accumulate(OpContext& context, core::ConstTensorView values, bool overwrite,
                core::TensorView sum);

void activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                        core::TensorView y);
void activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView x,
                         core::ConstTensorView dy, core::TensorView dx);
void gated_activation_forward(OpContext& context, ActivationFunction f, core::ConstTensorView gate,
                              core::ConstTensorView up, core::TensorView y);
void gated_activation_backward(OpContext& context, ActivationFunction f, core::ConstTensorView gate,
                               core::ConstTensorView up, core::ConstTensorView dy,
                               core::TensorView dgate, core::TensorView dup);

// The plain attention: one warp to a query (or key), sums in fp32 on the ordinary cores.
void attention_forward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView q,
                       core::ConstTensorView k, core::ConstTensorView v, core::TensorView out,
                       core::TensorView lse);
void attention_backward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView dout,
                        core::ConstTensorView q, core::ConstTensorView k, core::ConstTensorView v,
                        core::ConstTensorView out, core::ConstTensorView lse, core::TensorView dq,
                        core::TensorView dk, core::TensorView dv);

// Attention on tensor cores (flash_attention.cuh); hands what it cannot serve to the plain one.
void flash_attention_forward(OpContext& context, const AttentionSpec& spec, core::ConstTensorView q,
                             core::ConstTensorView k, core::ConstTensorView v, core::TensorView out,
                             core::TensorView lse);
void flash_attention_backward(OpContext& context, const AttentionSpec& spec,
                              core::ConstTensorView dout, core::ConstTensorView q,
                              core::ConstTensorView k, core::ConstTensorView v,
                              core::ConstTensorView out, core::ConstTensorView lse,
                              core::TensorView dq, core::TensorView dk, core::TensorView dv);

void cast(OpContext& context, core::ConstTensorView from, core::TensorView to);

void cross_entropy(OpContext& context, core::ConstTensorView logits,
                   std::span<const std::int32_t> targets, const LossOptions& options,
                   double softcap, core::TensorView dlogits, LossSums* sums);
void softcap_logits(OpContext& context, double softcap, core::TensorView logits);

void dropout(OpContext& context, core::ConstTensorView x, const Dropout& dropout,
             core::TensorView y);

void embedding_forward(OpContext& context, std::span<const std::int32_t> tokens,
                       std::int64_t length, core::ConstTensorView token_table,
                       core::ConstTensorView positions, core::ConstTensorView type_row,
                       core::TensorView out);
// Up to eight occurrences of one token are added in order, more in eight interleaved sums, then
// those.
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

void hash_messages(OpContext& context, const HashPlan& plan, core::ConstTensorView base,
                   std::uint64_t* hashes);

void layer_norm_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView gain,
                        core::ConstTensorView bias, double eps, core::TensorView y,
                        core::TensorView mean, core::TensorView rstd);
void layer_norm_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                         core::ConstTensorView gain, core::ConstTensorView mean,
                         core::ConstTensorView rstd, core::ConstTensorView add, core::TensorView dx,
                         core::TensorView dgain, core::TensorView dbias);

// A plain product in tiles, fp32 sums in order of k: the reference for cuBLASLt, and what serves
// where there is none.
void matmul(OpContext& context, core::ConstTensorView a, Transpose transpose_a,
            core::ConstTensorView b, Transpose transpose_b, core::TensorView out,
            core::ConstTensorView bias);

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

void column_sum(OpContext& context, core::ConstTensorView x, core::TensorView out);

void residual_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView branch,
                      core::ConstTensorView gate, const Dropout& dropout, core::TensorView y);
void residual_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView branch,
                       core::ConstTensorView gate, const Dropout& dropout, core::TensorView dbranch,
                       core::TensorView dgate);

void rms_norm_forward(OpContext& context, core::ConstTensorView x, core::ConstTensorView gain,
                      double eps, std::int64_t heads, core::TensorView y, core::TensorView rstd);
void rms_norm_backward(OpContext& context, core::ConstTensorView dy, core::ConstTensorView x,
                       core::ConstTensorView gain, core::ConstTensorView rstd, std::int64_t heads,
                       core::ConstTensorView add, core::TensorView dx, core::TensorView dgain);

// Computed on the host, with the bits of the CPU, and copied.
void fill_rope_table(OpContext& context, double theta, const RopeScaling& scaling,
                     core::TensorView cosines, core::TensorView sines);
void rope(OpContext& context, RopeDirection direction, std::int64_t length, std::int64_t head_width,
          core::ConstTensorView cosines, core::ConstTensorView sines, core::TensorView x);

void scale(OpContext& context, double factor, core::TensorView x);

// All of the above.
OpBodies own_kernel_bodies();

}  // namespace lockstep::ops::cuda
