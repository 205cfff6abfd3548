#include "runtime/checkpoint/checkpoint_saver.h"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "ops/gradient_stats.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "runtime/checkpoint/export_model.h"
#include "runtime/checkpoint/model_file.h"
#include "runtime/checkpoint/optimizer_file.h"
#include "runtime/config/dump_config.h"
#include "runtime/files/write_file.h"
#include "runtime/ranks/agree.h"

namespace lockstep::runtime {

namespace {

constexpr const char* kLabel = "checkpoint";

// Elements of this rank's masters that are inf or NaN, and the first parameter that has one.
struct NonFiniteMasters {
  std::int64_t elements = 0;
  models::ParameterId parameter = models::kNoParameter;
};

NonFiniteMasters find_nonfinite(const ModelState& model) {
  NonFiniteMasters found;
  for (int b = 0; b < model.layout().size(); ++b) {
    for (const OwnedRun& run : model.owned_runs(b)) {
      const std::int64_t count = ops::count_nonfinite(model.context(), run.master).total();
      if (count > 0 && found.elements == 0) found.parameter = run.segment.parameter;
      found.elements += count;
    }
  }
  return found;
}

}  // namespace

CheckpointSaver::CheckpointSaver(const Config& config, const models::ParameterTable& table,
                                 const BucketLayout& layout, std::vector<int> states,
                                 comm::Communicator& communicator, core::MemoryTracker& memory,
                                 core::Logger& log)
    : config_(config),
      table_(table),
      communicator_(communicator),
      log_(log),
      checkpoints_(config.run.output + "/checkpoints"),
      snapshot_(layout, std::move(states), config.parallel.zero_stage, communicator.rank(),
                memory) {}

CheckpointSaver::~CheckpointSaver() {
  abandoned_ = true;
  if (writer_.joinable()) writer_.join();
}

void CheckpointSaver::begin(const CheckpointState& state, ModelState& model) {
  finish();
  refuse_nonfinite(state, model);
  state_ = state;
  make_directory();
  snapshot_.take(model, communicator_);
  files_.clear();
  failure_ = nullptr;
  progress_ = SaveProgress::kWriting;
  in_flight_ = true;
  try {
    writer_ = std::thread([this] { write_files(); });
  } catch (const std::system_error&) {
    failure_ = std::current_exception();
    progress_ = SaveProgress::kFailed;
  }
}

// Weights that are not finite would be taken for the newest good ones.
void CheckpointSaver::refuse_nonfinite(const CheckpointState& state, ModelState& model) {
  const std::vector<NonFiniteMasters> all =
      communicator_.all_gather_small(find_nonfinite(model), kLabel);
  int ranks = 0;
  int first = -1;
  for (int r = 0; r < static_cast<int>(all.size()); ++r) {
    if (all[static_cast<std::size_t>(r)].elements == 0) continue;
    ranks += 1;
    if (first < 0) first = r;
  }
  if (ranks == 0) return;
  const NonFiniteMasters& found = all[static_cast<std::size_t>(first)];
  throw AgreedError(
      core::ErrorKind::kDiverged,
      fmt::format("step {}: not saved: weights are not finite on {} of {} ranks; first {} elements "
                  "on rank {}, from {} on; the last checkpoint is whole: resume from it with a "
                  "lower optimizer.learning_rate",
                  state.step, ranks, all.size(), found.elements, first,
                  table_[found.parameter].name));
}

void CheckpointSaver::make_directory() {
  temporary_ = fmt::format("{}/{}{}{}", checkpoints_, checkpoint_name(state_.step), kTemporaryMark,
                           attempt_);
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    const auto elements =
        static_cast<std::uint64_t>(table_.total_elements()) * (1 + snapshot_.states().size());
    begin_temporary(checkpoints_, temporary_,
                    {state_.step, elements * sizeof(float), config_.checkpoint.keep});
  });
  temporary_ = communicator_.all_gather_bytes(temporary_, kLabel).front();
}

void CheckpointSaver::write_files() noexcept {
  try {
    const auto written = [&](const std::string& name, const WrittenFile& file) {
      files_.push_back({name, file.bytes, file.hash});
    };
    if (communicator_.rank() == 0) {
      const std::string path = temporary_ + "/" + kModelFile;
      written(kModelFile, write_model_file(path, config_.model, table_, snapshot_, abandoned_));
      // So that from_pretrained() of Transformers loads the directory, where it has such a model.
      if (const std::string text = config_json(config_.model, state_.tokenizer); !text.empty()) {
        write_synced(temporary_ + "/" + kForeignConfigFile, text);
        files_.push_back(describe_file(temporary_, kForeignConfigFile));
      }
    }
    const std::string shard = optimizer_file_name(communicator_.rank(), communicator_.world_size());
    written(shard, write_optimizer_file(temporary_ + "/" + shard, table_, snapshot_, abandoned_));
    progress_ = SaveProgress::kWritten;
  } catch (...) {
    failure_ = std::current_exception();
    progress_ = SaveProgress::kFailed;
  }
}

SaveProgress CheckpointSaver::progress() const {
  return progress_;
}

void CheckpointSaver::finish() {
  if (!in_flight_) return;
  if (writer_.joinable()) writer_.join();
  in_flight_ = false;
  progress_ = SaveProgress::kNone;
  try {
    collect_files();
    publish_checkpoint();
    watched_.push_back({state_.step, state_.decision.applied_steps});
  } catch (const AgreedError&) {
    if (communicator_.rank() == 0) remove_temporary(temporary_);
    throw;
  }
}

// Brings the names, sizes and hashes of all ranks' files to all.
void CheckpointSaver::collect_files() {
  agree(communicator_, kLabel, [&] {
    if (failure_) std::rethrow_exception(failure_);
  });
  const std::vector<std::string> lists =
      communicator_.all_gather_bytes(manifest_files_text(files_), kLabel);
  files_.clear();
  for (const std::string& list : lists) {
    for (ManifestFile& file : parse_manifest_files(list))
      files_.push_back(std::move(file));
  }
}

void CheckpointSaver::publish_checkpoint() {
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    publish(checkpoints_, temporary_, state_, files_, to_yaml(config_));
    retain(checkpoints_, config_.checkpoint.keep, state_.step);
    log_.info("checkpoint", "saved {}/{}", checkpoints_, checkpoint_name(state_.step));
  });
}

void CheckpointSaver::watch_up_to(std::int64_t step) {
  std::string packed;
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    const std::vector<CheckpointAge> found = unproven_checkpoints(config_.run.output, step);
    packed.assign(reinterpret_cast<const char*>(found.data()),
                  found.size() * sizeof(CheckpointAge));
  });
  packed = communicator_.all_gather_bytes(packed, kLabel).front();
  watched_.resize(packed.size() / sizeof(CheckpointAge));
  std::memcpy(watched_.data(), packed.data(), packed.size());
}

void CheckpointSaver::forget_after(std::int64_t step) {
  std::erase_if(watched_, [&](const CheckpointAge& each) { return each.step > step; });
}

void CheckpointSaver::promote(std::int64_t step, std::int64_t applied_steps) {
  const auto due = [&](const CheckpointAge& checkpoint) {
    return checkpoint.applied_steps + kGoodStepsToHealth <= applied_steps;
  };
  if (std::none_of(watched_.begin(), watched_.end(), due)) return;
  agree(communicator_, kLabel, [&] {
    if (communicator_.rank() != 0) return;
    for (const CheckpointAge& checkpoint : watched_) {
      if (due(checkpoint))
        mark_healthy(checkpoints_ + "/" + checkpoint_name(checkpoint.step), step);
    }
  });
  std::erase_if(watched_, due);
}

void save_checkpoint(const Config& config, const models::ParameterTable& table, ModelState& model,
                     const CheckpointState& state, comm::Communicator& communicator,
                     core::MemoryTracker& memory, core::Logger& log) {
  CheckpointSaver saver(config, table, model.layout(), model.saved_states(), communicator, memory,
                        log);
  saver.begin(state, model);
  saver.finish();
}

}  // namespace lockstep::runtime
