#include "runtime/sampling/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "comm/self/self_communicator.h"
#include "core/check.h"
#include "core/error.h"
#include "core/random.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/config/load_config.h"
#include "runtime/plan/run_plan.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

constexpr core::DType kSamplingType = core::DType::kF32;
constexpr std::chrono::milliseconds kTimeout{60'000};  // a rank alone never waits

[[noreturn]] void fail(core::ErrorKind kind, const std::string& message) {
  throw core::Error(kind, message);
}

const Config& predicts_next_token(const Config& config, const std::string& directory) {
  const models::ModelConfig& model = config.model;
  if (model.causal() && model.task == models::Task::kCausalLm) return config;
  const char* reason = model.task == models::Task::kClassification
                           ? "classifies whole sequences"
                           : "sees both sides of every token, so that it cannot tell the next one";
  fail(core::ErrorKind::kConfig,
       fmt::format("{}: expected a model that predicts the next token (model.family gpt or llama, "
                   "model.task causal_lm), found one that {}; use another checkpoint",
                   directory, reason));
}

std::unique_ptr<Tokenizer> stored_tokenizer(const CheckpointManifest& manifest) {
  if (manifest.state.tokenizer.empty()) return nullptr;
  return tokenizer_from_description(manifest.state.tokenizer,
                                    manifest.directory + "/" + kManifestFile);
}

// The ids of the k greatest logits, rising; all for k = 0.
std::vector<std::int32_t> candidates(std::span<const float> logits, std::int64_t k) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto kept = static_cast<std::size_t>(k);
  if (k == 0 || kept >= ids.size()) return ids;
  const auto greater = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::nth_element(ids.begin(), ids.begin() + k, ids.end(), greater);
  ids.resize(kept);
  std::sort(ids.begin(), ids.end());
  return ids;
}

// Of candidates with these weights (rising ids), those that top_p keeps, as rising indices.
std::vector<std::size_t> nucleus(const std::vector<double>& weights, double top_p) {
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  if (top_p >= 1.0) return order;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return weights[a] > weights[b]; });
  const double wanted = top_p * std::accumulate(weights.begin(), weights.end(), 0.0);
  std::size_t kept = 0;
  for (double sum = 0.0; kept < order.size() && (kept == 0 || sum < wanted); ++kept)
    sum += weights[order[kept]];
  order.resize(kept);
  std::sort(order.begin(), order.end());
  return order;
}

// In [0, 1), a pure function of seed and position.
double draw(std::uint64_t seed, std::int64_t position) {
  const core::Philox4x32Key key = core::stream_key(seed, "sample");
  return core::to_open_unit_double(
      core::stream_block(key, static_cast<std::uint64_t>(position))[0]);
}

}  // namespace

CheckpointManifest find_checkpoint(const std::string& path, core::Logger& log) {
  std::error_code ignored;
  if (fs::is_directory(path + "/checkpoints", ignored)) {
    auto found = newest_whole_checkpoint(path, log);
    if (found) return *std::move(found);
    fail(core::ErrorKind::kData,
         fmt::format("{}/checkpoints: expected a whole checkpoint, found none; train further, or "
                     "name another run",
                     path));
  }
  if (fs::is_directory(path, ignored) && !fs::exists(path + "/" + kManifestFile, ignored)) {
    fail(core::ErrorKind::kData,
         fmt::format("{}: expected a checkpoint directory (OUTPUT/checkpoints/step-00000100) or "
                     "the output directory of a run, found neither {} nor checkpoints/ in it",
                     path, kManifestFile));
  }
  CheckpointManifest manifest = read_manifest(path);
  verify_checkpoint(manifest);
  return manifest;
}

Config checkpoint_config(const CheckpointManifest& manifest) {
  try {
    return parse_config(manifest.config_yaml, manifest.directory + "/" + kConfigFile);
  } catch (const core::Error& error) {
    fail(core::ErrorKind::kData, fmt::format("the configuration stored in the checkpoint is not "
                                             "one of this version:\n{}",
                                             error.what()));
  }
}

std::int32_t choose_token(std::span<const float> logits, const SampleOptions& options,
                          std::int64_t position) {
  LOCKSTEP_CHECK(!logits.empty(), "logits of an empty vocabulary");
  if (!std::all_of(logits.begin(), logits.end(), [](float z) { return std::isfinite(z); })) {
    fail(core::ErrorKind::kDiverged,
         fmt::format("expected finite logits at position {}, found inf or NaN: the weights have "
                     "diverged; use an earlier checkpoint",
                     position));
  }
  const auto greatest = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0.0) return static_cast<std::int32_t>(greatest - logits.begin());
  const std::vector<std::int32_t> ids = candidates(logits, options.top_k);
  std::vector<double> weights;
  weights.reserve(ids.size());
  for (const std::int32_t id : ids) {
    const double below = static_cast<double>(logits[static_cast<std::size_t>(id)]) - *greatest;
    weights.push_back(std::exp(below / options.temperature));
  }
  const std::vector<std::size_t> kept = nucleus(weights, options.top_p);
  std::vector<double> cumulative;
  cumulative.reserve(kept.size());
  double sum = 0.0;
  for (const std::size_t i : kept)
    cumulative.push_back(sum += weights[i]);
  const double target = draw(options.seed, position) * sum;
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end() - 1, target);
  return ids[kept[static_cast<std::size_t>(chosen - cumulative.begin())]];
}

std::size_t window_begin(std::size_t tokens, std::size_t context) {
  if (tokens <= context) return 0;
  const std::size_t dropped = std::max<std::size_t>(1, context / 2);
  return (tokens - context + dropped - 1) / dropped * dropped;
}

Sampler::Sampler(const CheckpointManifest& manifest, const Config& config, int threads,
                 core::MemoryTracker& memory, WeightsChoice weights)
    : config_(predicts_next_token(config, manifest.directory)),
      table_(config_.model),
      layout_(bucket_layout(config_, table_, 1)),
      communicator_(comm::make_self_communicator(kTimeout)),
      tokenizer_(stored_tokenizer(manifest)),
      context_(threads, memory),
      state_(table_, layout_, kSamplingType, /*zero_stage=*/0, /*state_tensors=*/0,
             /*averages=*/false, *communicator_, context_, memory),
      model_(config_.model, table_, context_, memory),
      choices_(tokenizer_ ? std::min(config_.model.vocab, tokenizer_->vocab())
                          : config_.model.vocab),
      input_(static_cast<std::size_t>(config_.model.context)) {
  load_weights(manifest, table_, config_.model, weights,
               [&](models::ParameterId id, std::span<const float> values) {
                 state_.set_parameter(id, values.data());
               });
}

void Sampler::check_ids(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < config_.model.vocab) continue;
    fail(core::ErrorKind::kConfig,
         fmt::format("expected a prompt of token ids in [0, {}), the vocabulary of the model, "
                     "found {}",
                     config_.model.vocab, id));
  }
}

std::span<const float> Sampler::next_logits(std::span<const std::int32_t> tokens, bool cache) {
  const std::size_t begin = window_begin(tokens.size(), input_.size());
  const auto window = tokens.subspan(begin);
  auto row = static_cast<std::int64_t>(window.size()) - 1;
  core::ConstTensorView logits;
  if (cache) {
    const auto kept = static_cast<std::size_t>(model_.length());
    const bool follows = begin == window_ && kept > 0 && kept < window.size();
    if (!follows) model_.clear();
    logits = model_.append(window.subspan(follows ? kept : 0), state_);
    row = logits.rows() - 1;
  } else {
    // Filled up to the context behind the last token, which a causal model does not see: every call
    // has the same shapes.
    std::fill(std::copy(window.begin(), window.end(), input_.begin()), input_.end(), 0);
    model_.clear();
    logits = model_.append(input_, state_);
  }
  window_ = begin;
  return {logits.row<float>(row), static_cast<std::size_t>(choices_)};
}

std::vector<double> Sampler::score(std::span<const std::int32_t> tokens, std::size_t first) {
  LOCKSTEP_CHECK(1 <= first && first < tokens.size() && tokens.size() <= input_.size() + 1,
                 "scores of tokens [{}, {}) in a context of {}", first, tokens.size(),
                 input_.size());
  check_ids(tokens);
  // A few lengths instead of all: every other shape of a product costs a plan of its own.
  constexpr std::size_t kStep = 16;
  const std::size_t seen = tokens.size() - 1;
  const std::size_t length = std::min(input_.size(), (seen + kStep - 1) / kStep * kStep);
  std::fill(std::copy_n(tokens.begin(), seen, input_.begin()), input_.end(), 0);
  model_.clear();
  const core::ConstTensorView logits =
      model_.append(std::span<const std::int32_t>(input_).first(length), state_);
  std::vector<double> scores;
  for (std::size_t t = first; t < tokens.size(); ++t) {
    const std::span<const float> row(logits.row<float>(static_cast<std::int64_t>(t) - 1),
                                     static_cast<std::size_t>(config_.model.vocab));
    const double greatest = *std::max_element(row.begin(), row.end());
    double sum = 0.0;
    for (const float z : row)
      sum += std::exp(z - greatest);
    scores.push_back(row[static_cast<std::size_t>(tokens[t])] - greatest - std::log(sum));
  }
  return scores;
}

void Sampler::generate(std::span<const std::int32_t> prompt, const SampleOptions& options,
                       const std::function<bool(std::int32_t)>& sink) {
  if (prompt.empty())
    fail(core::ErrorKind::kConfig, "expected a prompt of at least one token, found an empty one");
  check_ids(prompt);
  std::vector<std::int32_t> tokens(prompt.begin(), prompt.end());
  model_.clear();
  for (std::int64_t i = 0; i < options.tokens; ++i) {
    const auto position = static_cast<std::int64_t>(tokens.size());
    tokens.push_back(choose_token(next_logits(tokens, options.cache), options, position));
    if (!sink(tokens.back())) return;
  }
}

}  // namespace lockstep::runtime
