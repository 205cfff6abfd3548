#include "runtime/simulate/step_costs.h"

#include <algorithm>

#include "ops/optimizer_update.h"

namespace lockstep::runtime {

namespace {

using models::ParameterRole;

double tokens_of(const Config& config) {
  return static_cast<double>(config.batch.micro * config.model.context);
}

// trained: without those that are frozen.
double linear_weights(const models::ParameterTable& table, models::GroupIndex group,
                      bool trained = false) {
  double count = 0.0;
  for (const models::ParameterId id : table.in_group(group)) {
    if (table[id].role == ParameterRole::kLinearWeight && !(trained && table[id].frozen))
      count += static_cast<double>(table[id].elements());
  }
  return count;
}

double all_parameters(const models::ParameterTable& table, models::GroupIndex group) {
  double count = 0.0;
  for (const models::ParameterId id : table.in_group(group))
    count += static_cast<double>(table[id].elements());
  return count;
}

// What backward computes again, of pre-norm blocks: with `attention` the projections of queries,
// keys and values and the attention; with `block` all but the down-projection.
void add_recomputation(const Config& config, GroupWork& work) {
  const models::ModelConfig& model = config.model;
  const double tokens = tokens_of(config);
  const auto width = static_cast<double>(model.width);
  double again = 0.0;  // weights
  double bytes = 0.0;  // part of the forward's
  switch (config.memory.recompute) {
    case Recompute::kNone:
      return;
    case Recompute::kAttention:
      again = width * (width + 2.0 * static_cast<double>(model.kv_width()));
      bytes = 0.25;
      break;
    case Recompute::kBlock:
      again =
          work.forward.matmul_flop / (2.0 * tokens) - width * static_cast<double>(model.ffn_width);
      bytes = 1.0;
      break;
  }
  work.backward.matmul_flop += 2.0 * tokens * again;
  work.backward.attention_flop += work.forward.attention_flop;
  work.backward.bytes += bytes * work.forward.bytes;
}

// Norms read the branch and the stream and write both back; the activation keeps its input for
// backward; a bias gradient reads the gradient of its product's output once.
GroupWork block_work(const Config& config, double weights, double trained) {
  const models::ModelConfig& model = config.model;
  const double tokens = tokens_of(config);
  const auto element = static_cast<double>(core::size_of(config.precision.compute));
  const auto width = static_cast<double>(model.width);
  const auto ffn = static_cast<double>(model.ffn_width);
  const auto q_width = static_cast<double>(model.q_width());
  const auto kv_width = static_cast<double>(model.kv_width());
  const double scores = static_cast<double>(model.context) * (model.causal() ? 0.5 : 1.0);
  const double rotated =
      model.positions == models::Positions::kRope ? 2.0 * (q_width + kv_width) : 0;
  const double qkv_biased = model.qkv_bias() ? q_width + 2.0 * kv_width : 0.0;
  const double biased = qkv_biased + (model.linear_bias() ? 2.0 * width + ffn : 0.0);
  GroupWork work;
  work.forward.matmul_flop = 2.0 * tokens * weights;
  work.backward.matmul_flop = 2.0 * tokens * (weights + trained);
  work.forward.attention_flop = 4.0 * tokens * scores * q_width;
  work.backward.attention_flop = 10.0 * tokens * scores * q_width;
  work.forward.bytes =
      tokens * element * (8.0 * width + (model.gated() ? 3.0 : 2.0) * ffn + rotated);
  work.backward.bytes =
      tokens * element * (8.0 * width + (model.gated() ? 5.0 : 3.0) * ffn + rotated + biased);
  add_recomputation(config, work);
  return work;
}

GroupWork embedding_work(const Config& config, double parameters) {
  const auto element = static_cast<double>(core::size_of(config.precision.compute));
  const double rows = tokens_of(config) * static_cast<double>(config.model.width) * element;
  GroupWork work;
  work.forward.bytes = 2.0 * rows;
  work.backward.bytes = 2.0 * rows + parameters * element;
  return work;
}

// Logits are kept in fp32; the loss reads them and writes their gradient in the compute type.
GroupWork head_work(const Config& config, double weights) {
  const double tokens = tokens_of(config);
  const auto element = static_cast<double>(core::size_of(config.precision.compute));
  const auto width = static_cast<double>(config.model.width);
  const auto vocabulary = static_cast<double>(config.model.vocab);
  GroupWork work;
  work.forward.matmul_flop = 2.0 * tokens * weights;
  work.backward.matmul_flop = 4.0 * tokens * weights;
  work.forward.bytes = tokens * (4.0 * width * element + vocabulary * (4.0 + element));
  work.backward.bytes = tokens * 4.0 * width * element;
  return work;
}

}  // namespace

int rate_index(core::DType dtype) {
  if (dtype == core::DType::kBF16) return 1;
  return dtype == core::DType::kF16 ? 2 : 0;
}

std::vector<GroupWork> micro_batch_work(const Config& config, const models::ParameterTable& table) {
  const int head = table.groups() - 1;
  std::vector<GroupWork> work;
  work.push_back(embedding_work(config, all_parameters(table, 0)));
  for (int group = 1; group < head; ++group)
    work.push_back(block_work(config, linear_weights(table, group),
                              linear_weights(table, group, /*trained=*/true)));
  for (int group = 0; group < std::min(head, table.first_trained_group()); ++group)
    work[static_cast<std::size_t>(group)].backward = {};
  const double table_weights =
      static_cast<double>(config.model.vocab) * static_cast<double>(config.model.width);
  work.push_back(
      head_work(config, config.model.tie_embeddings ? table_weights : linear_weights(table, head)));
  return work;
}

double flop_per_token(const Config& config, const models::ParameterTable& table) {
  const models::ModelConfig& model = config.model;
  const double attention = (model.causal() ? 6.0 : 12.0) *
                           static_cast<double>(model.layers * model.width * model.context);
  return 6.0 * static_cast<double>(table.total_elements()) + attention;
}

double update_bytes_per_element(const Config& config) {
  const int states = state_tensors(config.optimizer);
  const bool separate = config.precision.compute != core::DType::kF32;
  const double norm = 4.0;
  const double gradient = 4.0;
  const double master = 8.0;
  return norm + gradient + master + 8.0 * states +
         (separate ? static_cast<double>(core::size_of(config.precision.compute)) : 0.0);
}

double seconds_of(const PartWork& work, const DeviceSpec& device, core::DType compute) {
  const int index = rate_index(compute);
  const double busy = work.matmul_flop / (device.matmul_tflops[index] * 1e12) +
                      work.attention_flop / (device.attention_tflops[index] * 1e12) +
                      work.bytes / (device.memory_gb_per_s * 1e9);
  return std::max(busy, device.kernel_overhead_us * 1e-6);
}

}  // namespace lockstep::runtime
