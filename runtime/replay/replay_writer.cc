#include "runtime/replay/replay_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <vector>

#include "core/error.h"
#include "ops/transfer.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/config/dump_config.h"
#include "runtime/metrics/run_recorder.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

RecordedNonFinite recorded(const NonFiniteReport& report, const models::ParameterTable& table,
                           const BucketLayout& layout) {
  if (!report.found()) return {};
  return {table.group_name(layout[report.bucket].spec.group), table[report.parameter].name,
          report.inf, report.nan};
}

bool ends_the_run(StopReason stop) {
  return stop == StopReason::kDiverged || stop == StopReason::kSpike ||
         stop == StopReason::kSpoilt || stop == StopReason::kTooManySkips ||
         stop == StopReason::kScaleExhausted;
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw core::Error(core::ErrorKind::kData, "cannot write " + path);
}

}  // namespace

bool replay_due(const StepDecision& decision, const DecisionState& before) {
  const bool ends = ends_the_run(decision.stop) || decision.stop == StopReason::kRollback;
  switch (decision.outcome) {
    case StepOutcome::kOverflow:
    case StepOutcome::kDiverged:
    case StepOutcome::kSpike:
      return ends || before.skips_in_a_row == 0;
    case StepOutcome::kNoTokens:
      return ends;
    case StepOutcome::kApplied:
    case StepOutcome::kLeftOut:  // nothing was computed
    case StepOutcome::kDesync:   // whose weights?
      return false;
  }
  return false;
}

ReplayRecord make_replay_record(const StepDecision& decision, std::span<const StepReport> reports,
                                const models::ParameterTable& table, const BucketLayout& layout) {
  ReplayRecord record;
  const RunView& view = reports.front().view;
  record.step = view.step;
  record.data_position = view.data_position;
  record.outcome = name_of(decision.outcome);
  record.stopped = ends_the_run(decision.stop);
  record.loss_scale = view.loss_scale;
  record.learning_rate = view.learning_rate;
  record.loss = decision.loss;
  record.grad_norm = decision.grad_norm;
  record.counted = decision.counted;
  record.config_fingerprint = view.config_fingerprint;
  record.build = replay_build();
  for (const StepReport& report : reports) {
    record.ranks.push_back({report.optimised_loss.value(), report.counted, report.nonfinite_losses,
                            report.nonfinite_layer, report.sum_of_squares.value(),
                            recorded(report.own, table, layout)});
  }
  return record;
}

ReplayWriter::ReplayWriter(const Config& config, const models::ParameterTable& table,
                           ops::OpContext& context, core::Logger& log)
    : config_(config),
      table_(table),
      context_(context),
      log_(log),
      bundles_(config.run.output + "/" + kReplayDirectory) {}

void ReplayWriter::write(const ReplayRecord& record, models::ParameterSource& parameters,
                         const TokenDataset& data) const noexcept {
  try {
    write_bundle(record, parameters, data);
  } catch (const std::exception& failure) {
    log_.warning("replay", "no bundle of step {}: {}", record.step, failure.what());
  }
}

void ReplayWriter::write_bundle(const ReplayRecord& record, models::ParameterSource& parameters,
                                const TokenDataset& data) const {
  fs::create_directories(bundles_);
  make_room();
  const std::string target = bundles_ + "/" + checkpoint_name(record.step);
  const std::string temporary = fmt::format("{}{}{}", target, kTemporaryMark, getpid());
  try {
    fs::create_directory(temporary);
    std::vector<ManifestFile> files = {write_weights(temporary, parameters),
                                       write_batch(temporary, record.data_position, data)};
    write_text(temporary + "/" + kConfigFile, to_yaml(config_));
    files.push_back(describe_file(temporary, kConfigFile));
    write_text(temporary + "/" + kManifestFile, replay_manifest_text(record, files));
    fs::remove_all(target);  // of an earlier attempt at the same step
    fs::rename(temporary, target);
  } catch (...) {
    remove_temporary(temporary);
    throw;
  }
  log_.info("replay", "step {} can be computed again: lockstep replay {}", record.step, target);
  retain(record.step);
}

// A run's own files must find room after the bundle has taken its own.
void ReplayWriter::make_room() const {
  for (const std::string& name : list_entries(bundles_)) {
    if (name.find(kTemporaryMark) != std::string::npos) fs::remove_all(bundles_ + "/" + name);
  }
  const std::uint64_t tokens = static_cast<std::uint64_t>(config_.batch.global) *
                               static_cast<std::uint64_t>(config_.model.context);
  const std::uint64_t bytes = static_cast<std::uint64_t>(table_.total_elements()) *
                                  core::size_of(config_.precision.compute) +
                              2 * tokens * sizeof(std::int32_t) + (1U << 20);
  const fs::space_info space = fs::space(bundles_);
  if (space.available >= 2 * bytes) return;
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("it takes {} MiB, and only {} MiB are free in {}; free some space, "
                                "or set health.replay_bundles to 0",
                                bytes >> 20, space.available >> 20, bundles_));
}

ManifestFile ReplayWriter::write_weights(const std::string& directory,
                                         models::ParameterSource& parameters) const {
  std::vector<TensorToWrite> tensors;
  for (const models::ParameterSpec& spec : table_.specs()) {
    TensorToWrite tensor{spec.name, config_.precision.compute, {}};
    for (int i = 0; i < spec.shape.rank(); ++i)
      tensor.shape.push_back(spec.shape[i]);
    tensors.push_back(std::move(tensor));
  }
  SafetensorsWriter writer(directory + "/" + kReplayWeightsFile, tensors);
  std::vector<std::byte> bytes;
  for (models::ParameterId id = 0; id < table_.size(); ++id) {
    const core::ConstTensorView values = parameters.parameter(id);
    bytes.resize(values.bytes());
    if (values.device().type == core::DeviceType::kCpu) {
      std::memcpy(bytes.data(), values.raw(), values.bytes());
    } else {
      ops::to_host(context_, values, bytes.data());
    }
    writer.write(table_[id].name, bytes);
  }
  const WrittenFile file = writer.finish(Durability::kCached);
  return {kReplayWeightsFile, file.bytes, file.hash};
}

ManifestFile ReplayWriter::write_batch(const std::string& directory, std::int64_t position,
                                       const TokenDataset& data) const {
  const std::int64_t context = config_.model.context;
  const std::vector<std::int64_t> shape = {config_.batch.global, context};
  SafetensorsWriter writer(
      directory + "/" + kReplayBatchFile,
      {{"inputs", core::DType::kI32, shape}, {"targets", core::DType::kI32, shape}});
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(context));
  std::vector<std::int32_t> targets(inputs.size());
  for (const bool first : {true, false}) {
    for (std::int64_t i = 0; i < config_.batch.global; ++i) {
      data.fill(position + i, 1, inputs, targets);
      writer.write(first ? "inputs" : "targets",
                   std::as_bytes(std::span<const std::int32_t>(first ? inputs : targets)));
    }
  }
  const WrittenFile file = writer.finish(Durability::kCached);
  return {kReplayBatchFile, file.bytes, file.hash};
}

void ReplayWriter::retain(std::int64_t newest) const {
  std::vector<std::int64_t> others;
  for (const std::string& name : list_entries(bundles_)) {
    const auto step = step_of_name(name);
    if (step && *step != newest) others.push_back(*step);
  }
  std::sort(others.rbegin(), others.rend());
  const auto kept = static_cast<std::size_t>(config_.health.replay_bundles - 1);
  for (std::size_t i = kept; i < others.size(); ++i)
    fs::remove_all(bundles_ + "/" + checkpoint_name(others[i]));
}

}  // namespace lockstep::runtime
