#include "ops/op_bodies.h"
#include "ops/cpu/bodies.h"
#include "ops/cpu/dense_bodies.h"
#include "ops/cpu/sequence_bodies.h"
#include "ops/fused_matmul_steps.h"

namespace lockstep::ops {

const OpBodies& cpu_op_bodies() {
  static constexpr OpBodies kBodies = {
      .accumulate = cpu::accumulate,
      .activation_forward = cpu::activation_forward,
      .activation_backward = cpu::activation_backward,
      .gated_activation_forward = cpu::gated_activation_forward,
      .gated_activation_backward = cpu::gated_activation_backward,
      .attention_forward = cpu::attention_forward,
      .attention_backward = cpu::attention_backward,
      .cast = cpu::cast,
      .cross_entropy = cpu::cross_entropy,
      .softcap_logits = cpu::softcap_logits,
      .dropout = cpu::dropout,
      .embedding_forward = cpu::embedding_forward,
      .embedding_backward = cpu::embedding_backward,
      .position_backward = cpu::position_backward,
      .count_nonfinite = cpu::count_nonfinite,
      .count_nonfinite_ranges = cpu::count_nonfinite_ranges,
      .first_nonfinite = cpu::first_nonfinite,
      .sums_of_squares = cpu::sums_of_squares,
      .hash_messages = cpu::hash_messages,
      .layer_norm_forward = cpu::layer_norm_forward,
      .layer_norm_backward = cpu::layer_norm_backward,
      .matmul = cpu::matmul,
      .matmul_activation_forward = in_steps::matmul_activation_forward,
      .matmul_activation_backward = in_steps::matmul_activation_backward,
      .matmul_weight_gradient = in_steps::matmul_weight_gradient,
      .muon_momentum = cpu::muon_momentum,
      .divide_by_norm = cpu::divide_by_norm,
      .weighted_sum = cpu::weighted_sum,
      .optimizer_update = cpu::optimizer_update,
      .optimizer_update_runs = cpu::optimizer_update_runs,
      .optimizer_update_chosen = cpu::optimizer_update_chosen,
      .column_sum = cpu::column_sum,
      .residual_forward = cpu::residual_forward,
      .residual_backward = cpu::residual_backward,
      .rms_norm_forward = cpu::rms_norm_forward,
      .rms_norm_backward = cpu::rms_norm_backward,
      .fill_rope_table = cpu::fill_rope_table,
      .rope = cpu::rope,
      .scale = cpu::scale,
      .attention_server = nullptr,
      .open_libraries = nullptr,
      .close_libraries = nullptr,
      .describe_choices = nullptr,
  };
  return kBodies;
}

}  // namespace lockstep::ops
