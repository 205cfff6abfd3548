#include "runtime/health/layer_statistics.h"

#include <algorithm>
#include <cmath>

#include "runtime/health/byte_string.h"

namespace lockstep::runtime {

namespace {

bool is_due(std::int64_t step, std::int64_t every) {
  return every > 0 && step % every == 0;
}

double share(std::int64_t count, std::int64_t of) {
  return static_cast<double>(count) / static_cast<double>(of);
}

// The greatest power of two that keeps `greatest` at or below 2^15, one bit below where fp16
// ends, for the peaks of the next steps; at most the greatest loss scale there is.
double advised_scale(double greatest) {
  constexpr double kMost = 16777216.0;
  if (!(greatest > 0.0) || !std::isfinite(greatest)) return Measured::kNothing;
  return std::min(kMost, std::exp2(std::floor(std::log2(32768.0 / greatest))));
}

}  // namespace

void LayerStatistics::Part::merge(const Part& other) {
  gradient.merge(other.gradient);
  weight.merge(other.weight);
  change.merge(other.change);
  census.merge(other.census);
}

std::string LayerStatistics::Part::packed() const {
  std::string bytes;
  append_bytes(bytes, gradient);
  append_bytes(bytes, weight);
  append_bytes(bytes, change);
  return bytes + census.packed();
}

LayerStatistics::Part LayerStatistics::Part::unpack(std::string_view& bytes) {
  Part part;
  part.gradient = take_bytes<ops::ExactSum>(bytes);
  part.weight = take_bytes<ops::ExactSum>(bytes);
  part.change = take_bytes<ops::ExactSum>(bytes);
  part.census = GradientCensus::unpack(bytes);
  return part;
}

LayerStatistics::LayerStatistics(const Config& config, const models::ParameterTable& table,
                                 const BucketLayout& layout, ModelState& state,
                                 const GradientBuckets& gradients, int rank,
                                 ops::OpContext& context, core::MemoryTracker& memory)
    : config_(config),
      table_(table),
      layout_(layout),
      state_(state),
      gradients_(gradients),
      rank_(rank),
      context_(context),
      activations_(config.model, context),
      weights_(table, layout, rank, context, memory),
      changed_(table, layout, rank, context, memory),
      changes_(state, gradients, memory) {}

bool LayerStatistics::wanted(const Config& config) {
  return config.metrics.per_layer_every > 0 || config.metrics.histograms_every > 0;
}

bool LayerStatistics::layers_due(std::int64_t step) const {
  return is_due(step, config_.metrics.per_layer_every);
}

bool LayerStatistics::histograms_due(std::int64_t step) const {
  return is_due(step, config_.metrics.histograms_every);
}

void LayerStatistics::begin(models::Transformer& model) {
  activations_.clear();
  model.observe([this](const models::ActivationView& view) { activations_.see(view); });
}

void LayerStatistics::end_passes(models::Transformer& model) {
  model.observe({});
}

void LayerStatistics::measure(const ShardNorm& norm) {
  gradient_squares_ = norm.by_parameter();
  census_.assign(static_cast<std::size_t>(table_.size()), {});
  std::vector<core::ConstTensorView> masters;
  for (int b = 0; b < layout_.size(); ++b) {
    const std::int64_t shard = layout_.shard_elements(b);
    masters.emplace_back();
    if (shard == 0) continue;
    const core::ConstTensorView owned = state_.owned_values(b, kMasterState);
    const std::int64_t first = rank_ * shard - state_.owned_begin(b);
    masters.back() = owned.slice_cols(first, first + shard);
    const float* const gradient = gradients_.shard(b).data<float>();
    for (const Segment& segment : layout_.owned_segments(b, rank_)) {
      census_[static_cast<std::size_t>(segment.parameter)].merge(
          take_census(context_, gradient + (segment.bucket_begin - rank_ * shard), segment.count));
    }
  }
  weights_.measure(masters);
}

void LayerStatistics::count(const StepDecision& decision, double coefficient) {
  if (!decision.applied()) return;
  applied_steps_ += 1;
  clipped_steps_ += coefficient < 1.0 ? 1 : 0;
}

std::vector<LayerStatistics::Part> LayerStatistics::own_parts(bool applied) const {
  const std::vector<ops::ExactSum> weights = weights_.by_parameter();
  const std::vector<ops::ExactSum> changes = changed_.by_parameter();
  std::vector<Part> parts(weights.size());
  for (std::size_t id = 0; id < parts.size(); ++id) {
    parts[id].gradient = gradient_squares_[id];
    parts[id].weight = weights[id];
    if (applied) parts[id].change = changes[id];
    parts[id].census = census_[id];
  }
  return parts;
}

std::vector<LayerStatistics::Part> LayerStatistics::by_group(
    const std::vector<Part>& tensors) const {
  std::vector<Part> groups(static_cast<std::size_t>(table_.groups()));
  for (models::ParameterId id = 0; id < table_.size(); ++id)
    groups[static_cast<std::size_t>(table_[id].group)].merge(tensors[static_cast<std::size_t>(id)]);
  return groups;
}

void LayerStatistics::exchange(std::vector<Part>& parts, std::vector<LayerActivity>& layers,
                               comm::Communicator& communicator) const {
  std::string own;
  for (const Part& part : parts)
    own += part.packed();
  for (const LayerActivity& layer : layers)
    own += layer.packed();
  parts.assign(parts.size(), {});
  layers.assign(layers.size(), {});
  for (const std::string& packed : communicator.all_gather_bytes(own, "layers")) {
    std::string_view bytes = packed;
    for (Part& part : parts)
      part.merge(Part::unpack(bytes));
    for (LayerActivity& layer : layers)
      layer.merge(LayerActivity::unpack(bytes));
  }
}

Measured LayerStatistics::measured(const Part& part, const StepDecision& decision) const {
  Measured m;
  const GradientCensus& census = part.census;
  const std::int64_t n = census.elements();
  if (n == 0) return m;
  m.grad_norm = std::sqrt(part.gradient.value()) * decision.unscale;
  if (census.nonfinite() == 0) m.grad_max = census.greatest * decision.unscale;
  m.zero_share = share(census.zeros, n);
  m.subnormal_share = share(census.subnormal(config_.precision.compute), n);
  m.fp16_underflow_share = share(census.below(-24), n);
  m.fp16_overflow_share = share(census.from(16), n);
  m.weight_norm = std::sqrt(part.weight.value());
  if (decision.applied() && m.weight_norm > 0.0)
    m.update_ratio = std::sqrt(part.change.value()) / m.weight_norm;
  return m;
}

void LayerStatistics::add_activity(const LayerActivity& activity, Measured& layer) {
  if (activity.elements > 0) {
    layer.activation_rms =
        std::sqrt(activity.squares.value() / static_cast<double>(activity.elements));
    layer.activation_max = activity.greatest;
  }
  if (const AttentionScores& scores = activity.attention; scores.rows > 0) {
    layer.attention_entropy = scores.entropy.value() / static_cast<double>(scores.rows);
    if (std::isfinite(layer.attention_entropy)) layer.attention_logit_max = scores.logit_max;
  }
  if (const std::vector<char>& alive = activity.alive; !alive.empty()) {
    const auto dead = std::count(alive.begin(), alive.end(), 0);
    layer.dead_share = share(dead, static_cast<std::int64_t>(alive.size()));
  }
}

void LayerStatistics::judge_scale(const std::vector<Part>& groups, double unscale,
                                  LayerReport& report) const {
  GradientCensus all;
  for (const Part& group : groups)
    all.merge(group.census);
  const std::int64_t n = all.elements();
  if (n == 0) return;
  report.fp16_underflow_share = share(all.below(-24), n);
  report.fp16_overflow_share = share(all.from(16), n);
  if (all.nonfinite() == 0) report.advised_loss_scale = advised_scale(all.greatest * unscale);
}

LayerReport LayerStatistics::finish(std::int64_t step, double loss_scale,
                                    const StepDecision& decision,
                                    comm::Communicator& communicator) {
  if (decision.applied()) changed_.measure(gradients_);
  std::vector<Part> parts = own_parts(decision.applied());
  if (!histograms_due(step)) parts = by_group(parts);
  std::vector<LayerActivity> layers = activations_.layers();
  exchange(parts, layers, communicator);

  LayerReport report;
  report.step = step;
  report.loss_scale = loss_scale;
  report.unit = decision.unscale;
  report.applied_steps = applied_steps_;
  report.clipped_steps = clipped_steps_;
  if (layers_due(step)) applied_steps_ = clipped_steps_ = 0;
  for (models::ParameterId id = 0; histograms_due(step) && id < table_.size(); ++id) {
    if (table_[id].frozen) continue;
    const Part& part = parts[static_cast<std::size_t>(id)];
    report.tensors.push_back(measured(part, decision));
    report.tensors.back().name = table_[id].name;
    report.histograms.push_back(part.census.histogram());
  }
  const std::vector<Part> groups = histograms_due(step) ? by_group(parts) : parts;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    report.layers.push_back(measured(groups[g], decision));
    report.layers.back().name = table_.group_name(static_cast<models::GroupIndex>(g));
    add_activity(layers[g], report.layers.back());
  }
  judge_scale(groups, decision.unscale, report);
  return report;
}

}  // namespace lockstep::runtime
