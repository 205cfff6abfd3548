#pragma once

#include <initializer_list>
#include <string>

#include "core/cuda_module.h"
#include "ops/accumulate.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/dropout.h"
#include "ops/embedding.h"
#include "ops/first_nonfinite.h"
#include "ops/fused_matmul.h"
#include "ops/gradient_stats.h"
#include "ops/hash.h"
#include "ops/layer_norm.h"
#include "ops/matmul.h"
#include "ops/muon.h"
#include "ops/optimizer_update.h"
#include "ops/reduce.h"
#include "ops/residual.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/scale.h"
#include "ops/transfer.h"

namespace lockstep::ops {

// The bodies of every op on one kind of device, each with the signature and the meaning of the op
// of its name. They trust their arguments: the ops check device, shape and dtype before they call.
struct OpBodies {
  decltype(&ops::accumulate) accumulate;
  decltype(&ops::activation_forward) activation_forward;
  decltype(&ops::activation_backward) activation_backward;
  decltype(&ops::gated_activation_forward) gated_activation_forward;
  decltype(&ops::gated_activation_backward) gated_activation_backward;
  decltype(&ops::attention_forward) attention_forward;
  decltype(&ops::attention_backward) attention_backward;
  decltype(&ops::cast) cast;
  decltype(&ops::cross_entropy) cross_entropy;
  decltype(&ops::softcap_logits) softcap_logits;
  decltype(&ops::dropout) dropout;
  decltype(&ops::embedding_forward) embedding_forward;
  decltype(&ops::embedding_backward) embedding_backward;
  decltype(&ops::position_backward) position_backward;
  decltype(&ops::count_nonfinite) count_nonfinite;
  decltype(&ops::count_nonfinite_ranges) count_nonfinite_ranges;
  decltype(&ops::first_nonfinite) first_nonfinite;
  decltype(&ops::sums_of_squares) sums_of_squares;
  decltype(&ops::hash_messages) hash_messages;
  decltype(&ops::layer_norm_forward) layer_norm_forward;
  decltype(&ops::layer_norm_backward) layer_norm_backward;
  decltype(&ops::matmul) matmul;
  decltype(&ops::matmul_activation_forward) matmul_activation_forward;
  decltype(&ops::matmul_activation_backward) matmul_activation_backward;
  decltype(&ops::matmul_weight_gradient) matmul_weight_gradient;
  decltype(&ops::muon_momentum) muon_momentum;
  decltype(&ops::divide_by_norm) divide_by_norm;
  decltype(&ops::weighted_sum) weighted_sum;
  decltype(&ops::optimizer_update) optimizer_update;
  // optimizer_update_runs, by the host's choice and by the device's
  void (*optimizer_update_runs)(OpContext&, const UpdateRule&, const UpdatePlan&, const RunFactors&,
                                float);
  void (*optimizer_update_chosen)(OpContext&, std::span<const UpdateRule>, const UpdatePlan&,
                                  const UpdateChoice*, std::span<const float>, float);
  decltype(&ops::column_sum) column_sum;
  decltype(&ops::residual_forward) residual_forward;
  decltype(&ops::residual_backward) residual_backward;
  decltype(&ops::rms_norm_forward) rms_norm_forward;
  decltype(&ops::rms_norm_backward) rms_norm_backward;
  decltype(&ops::fill_rope_table) fill_rope_table;
  decltype(&ops::rope) rope;
  decltype(&ops::scale) scale;

  // Who computed the last attention_forward or attention_backward of a context, and why, for people
  // ("cuDNN 9.19.0, engine 5"; "own kernels: there is dropout"). Valid until the next. Null where
  // there is no choice.
  const char* (*attention_server)(const OpContext& context);

  // What the device's libraries keep from call to call (handles, chosen algorithms), one for each
  // OpContext. Null where there is nothing to keep.
  void* (*open_libraries)(OpContext& context);
  void (*close_libraries)(void* libraries) noexcept;
  // What has been chosen for each product so far, a line of the table of algorithms for each.
  std::string (*describe_choices)(void* libraries);
};

const OpBodies& cpu_op_bodies();

// The CUDA module's. Throws Error(kConfig) saying why there are none.
const OpBodies& cuda_op_bodies(const core::CudaModule& module);

// The bodies that `context` runs. Every view that is not empty must lie on its device:
// Error(kConfig) otherwise.
const OpBodies& bodies_for(const OpContext& context, const char* op,
                           std::initializer_list<core::ConstTensorView> views);

}  // namespace lockstep::ops
