// clip.mode zclip and adagc in whole runs: against a plain fp64 loop over the gradients of a run
// that is not clipped, with steps that are skipped, at other numbers of ranks, across resumes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

constexpr int kSteps = 12;
constexpr double kDecay = 0.8;
constexpr int kWarmup = 4;
constexpr double kThreshold = 0.9;  // of the global norm, which is near 1
constexpr double kZ = 0.6;
constexpr double kRatio = 1.01;

double norm_of(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values)
    sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

// Weights never move, and the first moment is the gradient that the optimizer is given.
TrainingRun still_run(int ranks, int stage, const std::vector<std::string>& clip) {
  TrainingRun run;
  run.ranks = ranks;
  run.append =
      "fault: [{kind: overflow, step: 3, rank: 0, layer: 1}, {kind: overflow, step: 9, rank: 0}]\n";
  run.overrides = {fmt::format("train.steps={}", kSteps),
                   fmt::format("parallel.zero_stage={}", stage),
                   "schedule.name=constant",
                   "optimizer.learning_rate=0",
                   "optimizer.name=adam",
                   "optimizer.weight_decay=0",
                   "optimizer.betas=[0,0.9]"};
  run.overrides.insert(run.overrides.end(), clip.begin(), clip.end());
  return run;
}

// Norms by applied step and tensor.
using Norms = std::vector<std::vector<double>>;

struct StillRun {
  Norms norms;
  std::vector<double> coefficients;  // of metrics.jsonl
};

StillRun norms_of(TrainingWorld& world, TrainingRun run) {
  StillRun found;
  run.body = [&](Rank& rank) {
    while (rank.trainer.progress().step < kSteps) {
      const bool applied = rank.trainer.step().applied();
      std::vector<double> norms;
      for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id)
        norms.push_back(norm_of(rank.collect(id, 0)));
      if (rank.number() == 0 && applied) found.norms.push_back(std::move(norms));
    }
  };
  const TrainingResult result = world.train(run);
  EXPECT_FALSE(result.error) << result.message;
  for (const auto& line : result.lines) {
    if (line["event"] == "step" && line["applied"])
      found.coefficients.push_back(line["clip_coefficient"].get<double>());
  }
  return found;
}

double global_norm(const std::vector<double>& norms) {
  double sum = 0.0;
  for (const double norm : norms)
    sum += norm * norm;
  return std::sqrt(sum);
}

// Clip coefficients by applied step and tensor, from the papers.
Norms plain_zclip(const Norms& norms) {
  Norms all;
  std::vector<double> first;
  double mean = 0.0;
  double variance = 0.0;
  for (const auto& tensors : norms) {
    const double norm = global_norm(tensors);
    double kept = norm;
    if (first.size() < kWarmup) {
      first.push_back(norm);
      mean = variance = 0.0;
      for (const double each : first)
        mean += each / static_cast<double>(first.size());
      for (const double each : first)
        variance += (each - mean) * (each - mean) / static_cast<double>(first.size());
    } else {
      const double spread = std::sqrt(variance);
      const double z = (norm - mean) / (spread + 1e-6);
      if (z > kZ) kept = mean + spread * kZ * kZ / z;
      mean = kDecay * mean + (1 - kDecay) * kept;
      variance = kDecay * variance + (1 - kDecay) * (kept - mean) * (kept - mean);
    }
    const double most = std::min(kept, kThreshold);
    all.emplace_back(tensors.size(), norm > most ? most / (norm + 1e-6) : 1.0);
  }
  return all;
}

Norms plain_adagc(const Norms& norms) {
  Norms all;
  std::vector<double> references(norms.front().size(), 1e300);
  for (std::size_t step = 0; step < norms.size(); ++step) {
    const double common = std::min(1.0, kThreshold / (global_norm(norms[step]) + 1e-6));
    std::vector<double> coefficients;
    for (std::size_t i = 0; i < references.size(); ++i) {
      const double norm = norms[step][i];
      if (step < kWarmup) {
        coefficients.push_back(common);
        references[i] = std::min(references[i], common * norm);
        continue;
      }
      const double most = kRatio * references[i];
      coefficients.push_back(norm > most ? most / (norm + 1e-6) : 1.0);
      references[i] = kDecay * references[i] + (1 - kDecay) * std::min(norm, most);
    }
    all.push_back(std::move(coefficients));
  }
  return all;
}

std::vector<std::string> clip_keys(const std::string& mode) {
  std::vector<std::string> keys = {
      "clip.mode=" + mode, fmt::format("clip.threshold={}", kThreshold),
      fmt::format("clip.window_decay={}", kDecay), fmt::format("clip.warmup_steps={}", kWarmup)};
  keys.push_back(mode == "zclip" ? fmt::format("clip.z_threshold={}", kZ)
                                 : fmt::format("clip.ratio={}", kRatio));
  return keys;
}

TEST(AdaptiveClipping, EveryTensorAgainstAPlainLoop) {
  TrainingWorld world(tiny_config());
  const Norms raw = norms_of(world, still_run(1, 0, {"clip.mode=none"})).norms;
  ASSERT_EQ(raw.size(), kSteps - 2U);
  for (const std::string mode : {"zclip", "adagc"}) {
    const Norms expected = mode == "zclip" ? plain_zclip(raw) : plain_adagc(raw);
    for (const auto& [ranks, stage] : {std::pair{1, 0}, {1, 2}, {3, 0}, {3, 2}}) {
      SCOPED_TRACE(fmt::format("{}, {} ranks, stage {}", mode, ranks, stage));
      const StillRun found = norms_of(world, still_run(ranks, stage, clip_keys(mode)));
      ASSERT_EQ(found.norms.size(), raw.size());
      int clipped_late = 0;
      for (std::size_t step = 0; step < raw.size(); ++step) {
        for (std::size_t i = 0; i < raw[step].size(); ++i) {
          EXPECT_NEAR(found.norms[step][i], expected[step][i] * raw[step][i],
                      2e-5 * raw[step][i] + 1e-12)
              << "step " << step << ", tensor " << i;
          clipped_late += step >= kWarmup && expected[step][i] < 0.999 ? 1 : 0;
        }
        EXPECT_NEAR(found.coefficients[step],
                    *std::min_element(expected[step].begin(), expected[step].end()), 2e-5);
      }
      EXPECT_GT(clipped_late, 1);
    }
  }
}

std::string checkpoint_of(const TrainingResult& result, int step) {
  return fmt::format("{}/checkpoints/step-{:08}", result.output, step);
}

// Of a ledger, without their hashes: the chain of another OUTPUT begins anew.
std::vector<std::string> records(const std::string& ledger) {
  std::vector<std::string> found;
  std::istringstream text(ledger);
  for (std::string line; std::getline(text, line);)
    found.push_back(line.substr(0, line.rfind(R"(,"hash":)")));
  return found;
}

std::vector<std::string> last(const std::vector<std::string>& lines, int count) {
  return {lines.end() - count, lines.end()};
}

// Steps 2 and 7 are skipped; checkpoints within warm-up and behind it.
TEST(AdaptiveClipping, ResumesToTheSameBitsAtAnyRankCount) {
  TrainingWorld world(tiny_config());
  for (const std::string mode : {"zclip", "adagc"}) {
    TrainingRun run;
    run.ranks = 2;
    run.append =
        "fault: [{kind: overflow, step: 2, rank: 0}, {kind: overflow, step: 7, rank: 0}]\n";
    run.overrides = {"train.steps=9", "checkpoint.every_steps=1", "checkpoint.keep=9",
                     "run.reproducible=ranks", "precision.compute=bf16"};
    const auto keys = clip_keys(mode);
    run.overrides.insert(run.overrides.end(), keys.begin(), keys.end());
    run.body = [](Rank& rank) { rank.trainer.run(); };
    const TrainingResult whole = world.train(run);
    ASSERT_FALSE(whole.error) << whole.message;
    EXPECT_NE(whole.ledger.find(R"("clip":{"seen":7,)"), std::string::npos) << whole.ledger;
    for (const auto& [at, ranks, stage] : {std::tuple{2, 1, 0}, {3, 3, 2}, {7, 3, 0}, {8, 1, 2}}) {
      SCOPED_TRACE(fmt::format("{}: from step {}, {} ranks, stage {}", mode, at, ranks, stage));
      TrainingRun resumed = run;
      resumed.ranks = ranks;
      resumed.resume = checkpoint_of(whole, at);
      resumed.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
      const TrainingResult found = world.train(resumed);
      ASSERT_FALSE(found.error) << found.message;
      EXPECT_EQ(found.state, whole.state);
      EXPECT_EQ(records(found.ledger), last(records(whole.ledger), 9 - at));
    }
  }
}

TEST(AdaptiveClipping, AnotherModeAtResumeStartsAfresh) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"train.steps=4", "checkpoint.every_steps=2", "clip.mode=zclip",
                   "clip.warmup_steps=1"};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  const TrainingResult first = world.train(run);
  run.resume = checkpoint_of(first, 2);
  run.overrides = {"train.steps=4", "clip.mode=adagc"};
  run.body = [](Rank& rank) {
    rank.step_to_end();
    const runtime::DecisionState& state = rank.trainer.progress().decision;
    EXPECT_EQ(state.clip.mode, runtime::ClipMode::kAdaGc);
    EXPECT_EQ(state.clip.seen, 2);
    EXPECT_EQ(state.clip_references.size(), static_cast<std::size_t>(rank.trainer.table().size()));
  };
  const TrainingResult second = world.train(run);
  EXPECT_FALSE(second.error) << second.message;
}

}  // namespace
}  // namespace lockstep::testing
