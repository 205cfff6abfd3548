#include "runtime/metrics/run_recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/json_text.h"
#include "runtime/config/dump_config.h"
#include "runtime/step/tensor_clipping.h"

namespace lockstep::runtime {

namespace {

// "block.7.attention.qkv.weight" in bucket "block.7" -> "block 7 attention.qkv".
std::string spoken_name(const std::string& bucket, std::string tensor) {
  if (tensor.starts_with(bucket + ".")) tensor = tensor.substr(bucket.size() + 1);
  if (tensor.ends_with(".weight")) tensor.resize(tensor.size() - 7);
  std::string place = bucket;
  if (const std::size_t dot = place.find('.'); dot != std::string::npos) place[dot] = ' ';
  return place + " " + tensor;
}

}  // namespace

const char* name_of(StepOutcome outcome) {
  switch (outcome) {
    case StepOutcome::kApplied:
      return "applied";
    case StepOutcome::kOverflow:
      return "overflow";
    case StepOutcome::kDiverged:
      return "diverged";
    case StepOutcome::kSpike:
      return "spike";
    case StepOutcome::kNoTokens:
      return "no_tokens";
    case StepOutcome::kLeftOut:
      return "left_out";
    case StepOutcome::kDesync:
      return "desync";
  }
  return "?";
}

bool is_past_of(const std::string& output, const RecordPosition& position) {
  std::error_code failure;
  const std::string ledger = output + "/ledger.jsonl";
  const std::uintmax_t metrics_bytes =
      std::filesystem::file_size(output + "/metrics.jsonl", failure);
  if (failure || metrics_bytes < position.metrics_bytes) return false;
  return std::filesystem::exists(ledger, failure) &&
         ledger_has_passed(ledger, position.ledger_bytes, position.chain_head);
}

RunRecorder::RunRecorder(const Config& config, const models::ParameterTable& table,
                         const BucketLayout& layout, int rank, core::Logger& log)
    : config_(config),
      table_(table),
      layout_(layout),
      rank_(rank),
      log_(log),
      fingerprint_(fingerprint(config)),
      progress_(rank == 0, config.train.steps) {}

void RunRecorder::open(const RecordPosition& position, std::int64_t step,
                       const ResumePoint* resumed) {
  ledger_.set_head(position.chain_head);
  if (rank_ != 0) return;
  const std::string& output = config_.run.output;
  verifier_.reset();
  if (resumed == nullptr) {
    remove_cut_lines(output);
  } else {
    bits_promised_ =
        keep_cut_lines(output, position.metrics_bytes, position.ledger_bytes, *resumed);
    verifier_.emplace(output, resumed->ranks);
    if (!verifier_->pending()) remove_cut_lines(output);
  }
  metrics_ = std::make_unique<MetricsWriter>(config_.run.output + "/metrics.jsonl",
                                             position.metrics_bytes);
  ledger_.open(config_.run.output + "/ledger.jsonl", position.ledger_bytes);
  if (!config_.metrics.tensorboard) return;
  if (!tensorboard_) tensorboard_.emplace(config_.run.output + "/tensorboard");
  tensorboard_->open(step + 1, to_yaml(config_));
}

void RunRecorder::step(const StepRecord& record) {
  const std::optional<ResumeVerdict> verdict = append_to_ledger(record);
  if (rank_ != 0) return;
  write_metrics(record);
  tell(verdict);
  tell_health(record);
  log_step(record);
}

// Once for a resume. With a difference the rest would differ too.
void RunRecorder::tell(const std::optional<ResumeVerdict>& verdict) {
  if (verifier_ && !verifier_->pending()) {
    verifier_.reset();
    remove_cut_lines(config_.run.output);
  }
  if (!verdict) return;
  event("resume", verdict->fields());
  progress_.clear();
  if (verdict->verified() || !verdict->bits_promised) {
    log_.info("resume", "{}", verdict->describe());
  } else {
    log_.warning("resume", "{}", verdict->describe());
  }
}

std::optional<ResumeVerdict> RunRecorder::append_to_ledger(const StepRecord& record) {
  const StepDecision& d = record.decision;
  LedgerRecord entry;
  entry.step = record.view.step;
  entry.data_position = record.view.data_position;
  entry.outcome = name_of(d.outcome);
  entry.applied_steps = d.next.applied_steps;
  entry.tokens = d.counted;
  entry.loss = d.loss;
  entry.grad_norm = d.grad_norm;
  entry.coefficient = record.coefficient;
  entry.learning_rate = record.view.learning_rate;
  entry.loss_scale = record.view.loss_scale;
  entry.next_loss_scale = d.next.loss_scale.scale;
  entry.config_fingerprint = fingerprint_;
  entry.clip = clip_state_text(d.next);
  entry.ranks = config_.run.reproducible == Reproducible::kRanks ? 0 : layout_.world_size();
  entry.parameter_hashes = record.parameter_hashes;
  const std::string line = ledger_.append(entry);
  return verifier_ ? verifier_->ledger_line(line) : std::nullopt;
}

void RunRecorder::write_metrics(const StepRecord& record) {
  const bool last = record.view.step == config_.train.steps;
  const StepDecision& d = record.decision;
  const bool notable = !d.applied() || last;
  if (!notable && record.view.step % config_.metrics.every_steps != 0) return;
  StepMetrics m;
  m.step = record.view.step;
  m.applied = d.applied();
  m.applied_steps = d.next.applied_steps;
  m.loss = d.loss;
  m.grad_norm = d.grad_norm;
  if (d.applied()) m.clip_coefficient = record.coefficient;
  m.learning_rate = record.view.learning_rate;
  m.loss_scale = record.view.loss_scale;
  m.overflow = d.outcome == StepOutcome::kOverflow;
  m.diverged = d.outcome == StepOutcome::kDiverged;
  m.tokens = d.counted;
  m.step_seconds = record.seconds;
  if (d.overflow_rank >= 0) m.overflow_rank = d.overflow_rank;
  if (d.culprit.found()) {
    m.overflow_bucket = bucket_name(d.culprit);
    m.overflow_tensor = table_[d.culprit.parameter].name;
  }
  const std::string line = metrics_->step(m);
  if (tensorboard_) tensorboard_->step(m);
  if (verifier_) tell(verifier_->metrics_line(line));
}

std::string RunRecorder::describe_overflow(const StepDecision& d, double scale_before) const {
  std::string text = "overflow: ";
  text += d.overflow_rank >= 0 ? fmt::format("rank {}", d.overflow_rank)
                               : "the sum over ranks (each rank's own gradient is finite)";
  if (d.culprit.found()) {
    text +=
        ", " + spoken_name(layout_[d.culprit.bucket].spec.name, table_[d.culprit.parameter].name);
    if (d.culprit.inf > 0) text += fmt::format(", {} inf", d.culprit.inf);
    if (d.culprit.nan > 0) text += fmt::format(", {} nan", d.culprit.nan);
  }
  if (config_.precision.loss_scale.mode == LossScaleMode::kNone) return text;
  return text + fmt::format(", scale {} -> {}", scale_before, d.next.loss_scale.scale);
}

// A split bucket goes by the name of its group: where it is split depends on the number of ranks.
std::string RunRecorder::bucket_name(const NonFiniteReport& culprit) const {
  return table_.group_name(layout_[culprit.bucket].spec.group);
}

void RunRecorder::tell_health(const StepRecord& record) {
  using core::json_number;
  const StepDecision& d = record.decision;
  if (const SpikeVerdict& spike = d.spike; spike.found()) {
    event("health",
          fmt::format(R"("kind":"{}","step":{},"quantity":"{}","value":{},"median":{},)"
                      R"("mad":{},"factor":{},"limit":{},"healthy_steps":{},)"
                      R"("largest_tensor":{},"largest_norm":{})",
                      d.level ? "level" : "spike", record.view.step, name_of(spike.quantity),
                      json_number(spike.value), json_number(spike.median), json_number(spike.mad),
                      json_number(spike.factor), json_number(spike.limit), spike.healthy_steps,
                      core::json_string(table_[d.largest.parameter].name),
                      json_number(d.largest.norm)));
  }
  if (d.vanished) {
    event("health", fmt::format(R"("kind":"vanishing_norm","step":{},"grad_norm":{},"limit":{})",
                                record.view.step, json_number(d.grad_norm),
                                json_number(config_.health.vanishing_norm)));
  }
}

std::string RunRecorder::describe_spike(const StepDecision& d) const {
  const models::ParameterId id = d.largest.parameter;
  const std::string group = table_.group_name(layout_[layout_.first_bucket(id)].spec.group);
  return fmt::format("{}; most of the gradient is in {} (norm {:.3g})", d.spike.describe(),
                     spoken_name(group, table_[id].name), d.largest.norm);
}

void RunRecorder::log_step(const StepRecord& record) {
  const StepDecision& d = record.decision;
  if (d.outcome == StepOutcome::kOverflow) {
    progress_.clear();
    log_.warning("step", "step {} skipped: {}", record.view.step,
                 describe_overflow(d, record.view.loss_scale));
  } else if (d.level) {
    progress_.clear();
    log_.warning("health",
                 "step {}: {}, as were the {} steps before: taken for a new level of the data and "
                 "not for a spike, because the weights still fit the data from before; these {} "
                 "steps were not applied (health.spike_factor {}; 0: off)",
                 record.view.step, d.spike.describe(), d.spikes_before, d.spikes_before,
                 config_.health.spike_factor);
  } else if (d.spike.found()) {
    progress_.clear();
    log_.warning("step", "step {} not applied: spike: {}", record.view.step, describe_spike(d));
  } else if (!d.applied()) {
    progress_.clear();
    log_.warning("step", "step {} not applied: {}", record.view.step, name_of(d.outcome));
  }
  if (d.vanished) {
    progress_.clear();
    log_.warning("health",
                 "step {}: the gradient norm {:.3g} is below health.vanishing_norm {:.3g}",
                 record.view.step, d.grad_norm, config_.health.vanishing_norm);
  }
  const double rate = record.seconds > 0 ? static_cast<double>(d.counted) / record.seconds : 0.0;
  const std::string text = fmt::format("loss {:.4f} norm {:.3f} lr {:.2e} {:.0f} tok/s", d.loss,
                                       d.grad_norm, record.view.learning_rate, rate);
  progress_.update(record.view.step, record.seconds, text);
  const std::int64_t stride = std::max<std::int64_t>(1, config_.train.steps / 50);
  const bool due = record.view.step % stride == 0 || record.view.step == 1 ||
                   record.view.step == config_.train.steps;
  if (!progress_.active() && due) {
    log_.info("step", "step {}/{} {}", record.view.step, config_.train.steps, text);
  }
}

void RunRecorder::validation(std::int64_t step, double loss, std::optional<double> ema_loss) {
  if (rank_ != 0) return;
  const std::string line = metrics_->validation(step, loss, ema_loss);
  if (tensorboard_) tensorboard_->validation(step, loss, ema_loss);
  if (verifier_) tell(verifier_->metrics_line(line));
  progress_.clear();
  log_.info("validation", "step {} validation loss {:.4f}{}", step, loss,
            ema_loss ? fmt::format(", of the averaged weights {:.4f}", *ema_loss) : "");
}

bool RunRecorder::told_validation(std::int64_t step) const {
  if (rank_ != 0) return false;
  constexpr std::streamoff kTail = 1 << 16;
  std::ifstream file(config_.run.output + "/metrics.jsonl", std::ios::binary | std::ios::ate);
  file.seekg(-std::min<std::streamoff>(kTail, file.tellg()), std::ios::end);
  std::ostringstream tail;
  tail << file.rdbuf();
  return tail.str().find(fmt::format(R"({{"event":"validation","step":{},)", step)) !=
         std::string::npos;
}

void RunRecorder::layers(const LayerReport& report, bool line, bool histograms) {
  if (rank_ != 0) return;
  if (line) metrics_->event("layers", layers_members(report));
  if (histograms) metrics_->event("histogram", histogram_members(report));
  if (!tensorboard_) return;
  if (line) tensorboard_->layers(report);
  if (histograms) tensorboard_->histograms(report);
}

void RunRecorder::event(const std::string& name, const std::string& fields) {
  if (rank_ == 0) metrics_->event(name, fields);
}

RecordPosition RunRecorder::sync() {
  if (rank_ != 0) return {0, 0, ledger_.head()};
  if (tensorboard_) tensorboard_->sync();
  return {metrics_->sync(), ledger_.sync(), ledger_.head()};
}

}  // namespace lockstep::runtime
