#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "comm/device/staged_communicator.h"
#include "comm/local/local_world.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/random.h"
#include "runtime/config/load_config.h"
#include "runtime/ranks/agree.h"
#include "runtime/trainer/trainer.h"
#include "tests/support/temporary_directory.h"

// The real trainer on a tiny model, ranks as threads, files in a temporary directory.
namespace lockstep::testing {

// XXH3-64 of tensors in canonical form, equal on all ranks: independent of sharding and padding.
struct StateHashes {
  std::uint64_t masters = 0;
  std::uint64_t optimizer = 0;
  std::uint64_t average = 0;  // 0 without averages

  bool operator==(const StateHashes&) const = default;
};

inline std::uint64_t hash_of_state(runtime::Trainer& trainer, comm::Communicator& communicator,
                                   core::MemoryTracker& memory, int first, int last) {
  trainer.state().finish_gather();
  runtime::StateCollector collector(trainer.state(), communicator, memory);
  core::StreamingHash hash;
  std::vector<float> values;
  for (int state = first; state <= last; ++state) {
    for (models::ParameterId id = 0; id < trainer.table().size(); ++id) {
      values.resize(static_cast<std::size_t>(trainer.table()[id].elements()));
      collector.collect(id, state, values.data());
      hash.update(values.data(), values.size() * sizeof(float));
    }
  }
  return hash.digest();
}

// One rank while a run is under way.
struct Rank {
  runtime::Trainer& trainer;
  comm::Communicator& communicator;
  core::MemoryTracker& memory;
  const runtime::Config& config;

  int number() const { return communicator.rank(); }
  // Attempts until train.steps, without checkpoints and stops.
  void step_to_end(std::vector<runtime::StepDecision>* decisions = nullptr) {
    while (trainer.progress().step < config.train.steps) {
      const std::optional<runtime::StepDecision> decision = trainer.advance();
      if (decision && decisions != nullptr) decisions->push_back(*decision);
    }
  }
  // Collective.
  StateHashes hashes() const {
    StateHashes hashes;
    hashes.masters = hash_of_state(trainer, communicator, memory, -1, -1);
    hashes.optimizer =
        hash_of_state(trainer, communicator, memory, 0, trainer.state().state_tensors() - 1);
    if (trainer.state().averages()) {
      hashes.average = hash_of_state(trainer, communicator, memory, runtime::kAverageState,
                                     runtime::kAverageState);
    }
    return hashes;
  }
  // The whole of a parameter's master (state -1) or optimizer state. Collective.
  std::vector<float> collect(models::ParameterId id, int state) const {
    trainer.state().finish_gather();
    runtime::StateCollector collector(trainer.state(), communicator, memory);
    std::vector<float> values(static_cast<std::size_t>(trainer.table()[id].elements()));
    collector.collect(id, state, values.data());
    return values;
  }
};

struct TrainingRun {
  std::vector<std::string> overrides;  // "parallel.zero_stage=1"
  int ranks = 1;
  int threads = 1;
  std::string output;              // name of a directory in the world's; empty: a fresh one
  std::string resume;              // a checkpoint directory; empty: start
  std::string append;              // YAML text after the base configuration
  runtime::BackendDevice device;   // of every rank
  comm::LocalWorld::Wrap connect;  // what serves the device; default: through host memory
  std::function<std::vector<std::string>(int rank)> overrides_of_rank;  // on top, for drills
  std::function<void(Rank&)> body;                                      // default: step_to_end
};

struct TrainingResult {
  std::string output;                            // the directory
  std::vector<runtime::StepDecision> decisions;  // of rank 0, with the default body
  StateHashes state;                             // at the end, when nothing was thrown
  std::string ledger;                            // text of ledger.jsonl
  std::vector<nlohmann::ordered_json> lines;     // of metrics.jsonl
  std::optional<core::ErrorKind> error;          // thrown on every rank, with the same words
  std::string message;

  // The step lines, without what may depend on time.
  std::vector<std::string> step_lines() const {
    std::vector<std::string> texts;
    for (nlohmann::ordered_json line : lines) {
      if (line["event"] != "step") continue;
      line.erase("tokens_per_second");
      line.erase("step_seconds");
      texts.push_back(line.dump());
    }
    return texts;
  }
};

class TrainingWorld {
 public:
  explicit TrainingWorld(std::string base) : base_(std::move(base)) { write_tokens(11); }

  // Tokens drawn from a skewed distribution, so that there is something to learn.
  void write_tokens(std::uint64_t seed) const {
    constexpr std::size_t kTokens = 4096;
    std::vector<float> normal(kTokens);
    core::fill_normal(core::stream_key(seed, "tokens"), 0.0F, 8.0F, normal.data(), kTokens);
    std::vector<std::uint16_t> tokens(kTokens);
    for (std::size_t i = 0; i < kTokens; ++i)
      tokens[i] = static_cast<std::uint16_t>(std::min(std::abs(normal[i]), 31.0F));
    directory_.write("tokens.bin", {reinterpret_cast<const char*>(tokens.data()),
                                    tokens.size() * sizeof(std::uint16_t)});
  }

  runtime::Config config_of(const TrainingRun& run, const std::string& output,
                            const std::vector<std::string>& more = {}) const {
    std::vector<std::string> overrides = {"run.output=" + output,
                                          "data.train=" + (directory_ / "tokens.bin").string()};
    overrides.insert(overrides.end(), run.overrides.begin(), run.overrides.end());
    overrides.insert(overrides.end(), more.begin(), more.end());
    return runtime::parse_config(base_ + run.append, "test.yaml", overrides);
  }
  runtime::Config config_of(const TrainingRun& run) const { return config_of(run, "unused"); }

  TrainingResult train(const TrainingRun& run) {
    TrainingResult result;
    result.output =
        (directory_ / (run.output.empty() ? fmt::format("run-{}", runs_++) : run.output)).string();
    std::filesystem::create_directories(result.output + "/checkpoints");
    const auto ranks = static_cast<std::size_t>(run.ranks);
    std::vector<std::string> messages(ranks);
    std::vector<std::optional<core::ErrorKind>> kinds(ranks);
    std::vector<StateHashes> hashes(ranks);
    comm::LocalWorld::Wrap wrap = run.connect;
    if (!wrap && !run.device.on_cpu()) {
      wrap = [&](std::unique_ptr<comm::Communicator> host) {
        return comm::make_staged_communicator(std::move(host), run.device.device);
      };
    }
    const comm::LocalWorld world(run.ranks, std::chrono::seconds(60));
    world.run(
        [&](comm::Communicator& communicator) {
          const auto r = static_cast<std::size_t>(communicator.rank());
          try {
            hashes[r] = train_rank(run, result, communicator);
          } catch (const core::Error& error) {
            kinds[r] = error.kind();
            messages[r] = error.what();
            // What ranks did not agree on ends the others too, as in a real run.
            if (dynamic_cast<const runtime::AgreedError*>(&error) == nullptr)
              communicator.abort(error.kind(), error.what());
          }
        },
        wrap);
    for (std::size_t r = 0; r < ranks; ++r) {
      EXPECT_EQ(kinds[r], kinds[0]) << "rank " << r << ": " << messages[r] << messages[0];
      EXPECT_EQ(messages[r], messages[0]);
      EXPECT_EQ(hashes[r], hashes[0]) << "rank " << r;
    }
    result.error = kinds[0];
    result.message = messages[0];
    result.state = hashes[0];
    result.ledger = read_file(result.output + "/ledger.jsonl");
    std::istringstream metrics(read_file(result.output + "/metrics.jsonl"));
    for (std::string line; std::getline(metrics, line);)
      result.lines.push_back(nlohmann::ordered_json::parse(line));
    return result;
  }

  const TemporaryDirectory& directory() const { return directory_; }

 private:
  StateHashes train_rank(const TrainingRun& run, TrainingResult& result,
                         comm::Communicator& communicator) const {
    const bool first = communicator.rank() == 0;
    runtime::Config config =
        config_of(run, result.output,
                  run.overrides_of_rank ? run.overrides_of_rank(communicator.rank())
                                        : std::vector<std::string>{});
    config.backend.device =
        run.device.on_cpu() ? runtime::DeviceChoice::kCpu : runtime::DeviceChoice::kCuda;
    core::MemoryTracker memory;
    core::Logger log(first ? 0 : communicator.rank(), communicator.world_size(),
                     core::LogLevel::kError);
    runtime::Trainer trainer(config, run.threads, communicator, memory, log, run.device);
    if (run.resume.empty()) {
      trainer.start("");
    } else {
      trainer.resume(run.resume, "");
    }
    Rank rank{trainer, communicator, memory, config};
    if (run.body) {
      run.body(rank);
    } else {
      rank.step_to_end(first ? &result.decisions : nullptr);
    }
    return rank.hashes();
  }

  TemporaryDirectory directory_;
  std::string base_;
  int runs_ = 0;
};

// 2 blocks, 12 micro-batches a step.
inline std::string tiny_config() {
  return "run: {seed: 7}\n"
         "model: {layers: 2, heads: 2, width: 32, context: 8, vocab: 32}\n"
         "data: {train: given by the test}\n"
         "batch: {global: 12, micro: 1}\n"
         "train: {steps: 4}\n"
         "optimizer: {learning_rate: 2e-3}\n"
         "schedule: {warmup_steps: 2}\n";
}

}  // namespace lockstep::testing
