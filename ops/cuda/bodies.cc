#include "ops/cuda/bodies.h"

#include "ops/fused_matmul_steps.h"

namespace lockstep::ops::cuda {

OpBodies own_kernel_bodies() {
  return {
      .accumulate = accumulate,
      .activation_forward = activation_forward,
      .activation_backward = activation_backward,
      .gated_activation_forward = gated_activation_forward,
      .gated_activation_backward = gated_activation_backward,
      .attention_forward = flash_attention_forward,
      .attention_backward = flash_attention_backward,
      .cast = cast,
      .cross_entropy = cross_entropy,
      .softcap_logits = softcap_logits,
      .dropout = dropout,
      .embedding_forward = embedding_forward,
      .embedding_backward = embedding_backward,
      .position_backward = position_backward,
      .count_nonfinite = count_nonfinite,
      .count_nonfinite_ranges = count_nonfinite_ranges,
      .first_nonfinite = first_nonfinite,
      .sums_of_squares = sums_of_squares,
      .hash_messages = hash_messages,
      .layer_norm_forward = layer_norm_forward,
      .layer_norm_backward = layer_norm_backward,
      .matmul = matmul,
      .matmul_activation_forward = in_steps::matmul_activation_forward,
      .matmul_activation_backward = in_steps::matmul_activation_backward,
      .matmul_weight_gradient = in_steps::matmul_weight_gradient,
      .muon_momentum = muon_momentum,
      .divide_by_norm = divide_by_norm,
      .weighted_sum = weighted_sum,
      .optimizer_update = optimizer_update,
      .optimizer_update_runs = optimizer_update_runs,
      .optimizer_update_chosen = optimizer_update_chosen,
      .column_sum = column_sum,
      .residual_forward = residual_forward,
      .residual_backward = residual_backward,
      .rms_norm_forward = rms_norm_forward,
      .rms_norm_backward = rms_norm_backward,
      .fill_rope_table = fill_rope_table,
      .rope = rope,
      .scale = scale,
      .attention_server = nullptr,
      .open_libraries = nullptr,
      .close_libraries = nullptr,
      .describe_choices = nullptr,
  };
}

}  // namespace lockstep::ops::cuda
