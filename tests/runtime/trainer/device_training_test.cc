#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "runtime/plan/memory_plan.h"
#include "runtime/replay/replay_step.h"
#include "tests/support/decision_device.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/training_world.h"

// The whole trainer on a device, the stand-in and, where there is one, a GPU, against the CPU.
namespace lockstep::testing {
namespace {

using test::backend_of;

struct Case {
  const char* name;
  std::vector<std::string> overrides;
};

// Few tokens and one small step each: the stand-in runs some thousand threads a microsecond, not
// more.
std::string small_config() {
  return "run: {seed: 7}\n"
         "model: {layers: 2, heads: 2, width: 16, context: 8, vocab: 32}\n"
         "data: {train: given by the test}\n"
         "batch: {global: 4, micro: 2}\n"
         "train: {steps: 4}\n"
         "optimizer: {learning_rate: 2e-3}\n"
         "schedule: {warmup_steps: 2}\n";
}

std::vector<Case> cases() {
  return {
      {"gpt", {}},
      {"llama", {"model.family=llama", "model.kv_heads=1"}},
      {"gates and dropout",
       {"model.dropout=0.1", "model.residual_gate=scalar", "model.qk_norm=true"}},
      {"untied, post-norm, sinusoidal",
       {"model.tie_embeddings=false", "model.norm_position=post", "model.positions=sinusoidal"}},
      {"smoothing, cap, tensor norms",
       {"loss.label_smoothing=0.1", "loss.z_loss=1e-4", "model.logit_softcap=30",
        "clip.mode=tensor_norm", "optimizer.name=lion"}},
      {"Muon, clipping by each tensor's past, loss by sequences",
       {"optimizer.name=muon", "optimizer.learning_rate=0.02",
        "optimizer.muon.adamw_learning_rate=2e-3", "optimizer.muon.ns_steps=1", "clip.mode=adagc",
        "clip.warmup_steps=1", "loss.normalise=sequences"}},
      {"groups and averages",
       {"optimizer.groups=[{match: 'block.0.*', freeze: true}, {match: 'embeddings.*', freeze: "
        "true}, {match: '*.bias', learning_rate_scale: 2, weight_decay: 0.1}]",
        "ema.decay=0.9", "ema.every=2", "ema.warmup=true"}},
  };
}

std::vector<double> losses_of(const TrainingResult& result) {
  std::vector<double> losses;
  for (const auto& line : result.lines)
    if (line["event"] == "step") losses.push_back(line["loss"].get<double>());
  return losses;
}

void expect_same_curve(const TrainingResult& device, const TrainingResult& cpu, double tolerance,
                       const std::string& what) {
  ASSERT_FALSE(device.error.has_value()) << what << ": " << device.message;
  ASSERT_FALSE(cpu.error.has_value()) << what << ": " << cpu.message;
  const std::vector<double> found = losses_of(device);
  const std::vector<double> expected = losses_of(cpu);
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_NEAR(found[i] / expected[i], 1.0, tolerance) << what << ", step " << i + 1;
}

TEST(DeviceTraining, FollowsTheCpu) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const Case& c : cases()) {
      for (const char* type : {"fp32", "bf16", "fp16"}) {
        TrainingRun run;
        run.overrides = c.overrides;
        run.overrides.push_back(std::string("precision.compute=") + type);
        const TrainingResult cpu = world.train(run);
        run.device = backend_of(device);
        const double tolerance = std::string(type) == "fp32" ? 1e-4 : 1e-2;
        expect_same_curve(world.train(run), cpu, tolerance,
                          device.name + ", " + c.name + ", " + type);
      }
    }
  }
}

TEST(DeviceTraining, EveryWayToShardAndToReduceGivesTheCurve) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const char* stage : {"0", "1", "2"}) {
      for (const char* sync : {"every_round", "boundary"}) {
        for (const char* wire : {"auto", "fp32", "bf16"}) {
          TrainingRun run;
          run.overrides = {std::string("parallel.zero_stage=") + stage,
                           std::string("parallel.grad_sync=") + sync,
                           std::string("parallel.reduce_type=") + wire, "train.steps=3"};
          const TrainingResult cpu = world.train(run);
          run.device = backend_of(device);
          expect_same_curve(world.train(run), cpu, 1e-2, device.name + " " + stage + sync + wire);
        }
      }
    }
  }
}

// Several ranks of one device, their gradients going through host memory.
TEST(DeviceTraining, MoreRanksGiveTheCurveOfOne) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const char* type : {"fp32", "bf16", "fp16"}) {
      for (const char* stage : {"0", "1", "2"}) {
        TrainingRun run;
        run.overrides = {std::string("precision.compute=") + type,
                         std::string("parallel.zero_stage=") + stage};
        run.device = backend_of(device);
        const TrainingResult one = world.train(run);
        run.ranks = 2;
        const double tolerance = std::string(type) == "fp32" ? 1e-5 : 1e-2;
        expect_same_curve(world.train(run), one, tolerance, device.name + " " + type + stage);
      }
    }
  }
}

// Waiting for each bucket where it is sent changes when it travels, and no bit.
TEST(DeviceTraining, OverlapGivesTheSameBitsAsWaiting) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const auto& [stage, sync] :
         {std::pair{"0", "every_round"}, {"1", "boundary"}, {"2", "every_round"}}) {
      SCOPED_TRACE(device.name + " " + stage + " " + sync);
      TrainingRun run;
      run.overrides = {std::string("parallel.zero_stage=") + stage,
                       std::string("parallel.grad_sync=") + sync,
                       "precision.compute=bf16",
                       "batch.micro=1",
                       "train.steps=2",
                       "schedule.warmup_steps=1"};
      run.ranks = 2;
      run.device = backend_of(device);
      const TrainingResult with = world.train(run);
      run.overrides.emplace_back("parallel.overlap=false");
      run.connect = [&](std::unique_ptr<comm::Communicator> host) {
        return RecordingCommunicator::around(
            comm::make_staged_communicator(std::move(host), device.ref));
      };
      run.body = [](Rank& rank) {
        rank.step_to_end();
        EXPECT_EQ(RecordingCommunicator::of(rank.communicator).open(), 0);
      };
      const TrainingResult without = world.train(run);
      ASSERT_EQ(with.step_lines().size(), 2U) << with.message << without.message;
      EXPECT_EQ(without.step_lines(), with.step_lines());
      EXPECT_EQ(without.state, with.state);
    }
  }
}

// A step in between is skipped, which the device finds out by itself.
TEST(DeviceTraining, AveragesFollowTheCpu) {
  TrainingWorld world(small_config());
  TrainingRun run;
  run.ranks = 2;
  run.overrides = {"ema.decay=0.8",
                   "ema.every=2",
                   "ema.warmup=true",
                   "train.steps=5",
                   "fault=[{kind: overflow, step: 2, rank: 0, layer: 1}]",
                   "optimizer.groups=[{match: 'block.0.mlp.*', freeze: true}]",
                   "data.validation=" + (world.directory() / "tokens.bin").string(),
                   "train.validate_every=5",
                   "train.validate_batches=1"};
  std::vector<std::vector<float>> averages;
  run.body = [&averages](Rank& rank) {
    rank.trainer.run();
    for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id) {
      const std::vector<float> values = rank.collect(id, runtime::kAverageState);
      if (rank.number() == 0) averages.push_back(values);
    }
  };
  const auto ema_loss = [](const TrainingResult& result) {
    for (const auto& line : result.lines)
      if (line["event"] == "validation") return line["ema_loss"].get<double>();
    return 0.0;
  };
  const TrainingResult on_cpu = world.train(run);
  const std::vector<std::vector<float>> expected = std::exchange(averages, {});
  for (const test::TestDevice& device : test::devices_under_test()) {
    run.device = backend_of(device);
    const TrainingResult on_device = world.train(run);
    ASSERT_FALSE(on_device.error) << on_device.message;
    const std::vector<std::vector<float>> found = std::exchange(averages, {});
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t p = 0; p < expected.size(); ++p) {
      for (std::size_t i = 0; i < expected[p].size(); ++i)
        ASSERT_NEAR(found[p][i], expected[p][i], 1e-4) << device.name << " " << p;
    }
    EXPECT_NEAR(ema_loss(on_device), ema_loss(on_cpu), 1e-4);
  }
}

// Dropout and gates, and post-norm, each in both kinds; one step says it.
TEST(DeviceTraining, RecomputingChangesNoBit) {
  TrainingWorld world(small_config());
  const std::vector<std::vector<std::string>> models = {
      {"model.dropout=0.1", "model.residual_gate=scalar", "model.qk_norm=true"},
      {"model.norm_position=post", "precision.compute=bf16"}};
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const std::vector<std::string>& model : models) {
      TrainingRun run;
      run.overrides = model;
      run.overrides.insert(run.overrides.end(), {"train.steps=1", "schedule.warmup_steps=0"});
      run.device = backend_of(device);
      const TrainingResult kept = world.train(run);
      ASSERT_FALSE(kept.error) << kept.message;
      for (const char* recompute : {"attention", "block"}) {
        TrainingRun again = run;
        again.overrides.push_back(std::string("memory.recompute=") + recompute);
        const TrainingResult found = world.train(again);
        EXPECT_EQ(found.state, kept.state) << device.name << ", " << recompute << model.front();
        EXPECT_EQ(found.step_lines(), kept.step_lines()) << device.name << ", " << recompute;
      }
    }
  }
}

TEST(DeviceTraining, TheSameRunTwiceGivesTheSameBits) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const char* type : {"fp32", "bf16"}) {
      TrainingRun run;
      run.overrides = {std::string("precision.compute=") + type, "model.dropout=0.1"};
      run.device = backend_of(device);
      const TrainingResult first = world.train(run);
      const TrainingResult second = world.train(run);
      EXPECT_EQ(first.state, second.state) << device.name;
      EXPECT_EQ(first.step_lines(), second.step_lines()) << device.name;
      EXPECT_EQ(first.ledger, second.ledger) << device.name;
    }
  }
}

// What goes wrong is named as on the CPU: rank, bucket and tensor of an overflow, the layer of a
// NaN.
TEST(DeviceTraining, DrillsAreNamedAsOnTheCpu) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run;
    run.overrides = {"precision.compute=fp16", "health.on_divergence=skip",
                     "fault=[{kind: overflow, step: 2, rank: 0, layer: 1}, "
                     "{kind: nan, step: 3, rank: 0, layer: 0}]"};
    const TrainingResult cpu = world.train(run);
    run.device = backend_of(device);
    const TrainingResult found = world.train(run);
    ASSERT_EQ(found.decisions.size(), 4U) << found.message;
    ASSERT_EQ(cpu.decisions.size(), 4U) << cpu.message;
    for (std::size_t i = 0; i < 4; ++i)
      EXPECT_EQ(found.decisions[i].applied(), cpu.decisions[i].applied()) << "step " << i + 1;
    const auto culprit = [](const TrainingResult& result, std::size_t step) {
      nlohmann::ordered_json line = nlohmann::ordered_json::parse(result.step_lines()[step]);
      return line["overflow_rank"].dump() + line["overflow_bucket"].dump() +
             line["overflow_tensor"].dump() + line["loss_scale"].dump();
    };
    EXPECT_EQ(culprit(found, 1), culprit(cpu, 1)) << device.name;
    EXPECT_EQ(found.decisions[2].diverged_layer, cpu.decisions[2].diverged_layer);
    // The bundle of the overflow holds the device's weights; the CPU comes to the same finding.
    core::MemoryTracker memory;
    core::Logger log(0, 1, core::LogLevel::kError);
    const runtime::ReplayBundle bundle =
        runtime::read_replay_bundle(found.output + "/replay/step-00000002");
    EXPECT_TRUE(runtime::replay_step(bundle, 1, memory, log).reproduced()) << device.name;
  }
}

TEST(DeviceTraining, AFlippedBitOfTheParametersIsFound) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run;
    run.overrides = {"parallel.verify_every=1",
                     "fault=[{kind: bitflip, step: 2, rank: 0, layer: 1}]"};
    run.device = backend_of(device);
    const TrainingResult found = world.train(run);
    ASSERT_TRUE(found.error.has_value()) << device.name;
    EXPECT_EQ(*found.error, core::ErrorKind::kCommunication);
    EXPECT_NE(found.message.find("block.1"), std::string::npos) << found.message;
  }
}

// A checkpoint of a device continues on it bit for bit, and on the CPU too.
TEST(DeviceTraining, ResumesFromItsCheckpoint) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun whole;
    whole.overrides = {"precision.compute=bf16", "checkpoint.every_steps=2"};
    whole.device = backend_of(device);
    whole.body = [](Rank& rank) { rank.trainer.run(); };
    const TrainingResult uninterrupted = world.train(whole);
    ASSERT_FALSE(uninterrupted.error.has_value()) << uninterrupted.message;
    TrainingRun resumed = whole;
    resumed.resume = uninterrupted.output + "/checkpoints/step-00000002";
    const TrainingResult again = world.train(resumed);
    ASSERT_FALSE(again.error.has_value()) << again.message;
    EXPECT_EQ(again.state, uninterrupted.state) << device.name;
    resumed.device = {};
    const TrainingResult on_cpu = world.train(resumed);
    ASSERT_FALSE(on_cpu.error.has_value()) << on_cpu.message;
    EXPECT_NEAR(losses_of(on_cpu).back() / losses_of(again).back(), 1.0, 1e-2);
  }
}

std::string gpu_config() {
  return "run: {seed: 11}\n"
         "model: {layers: 4, heads: 4, width: 256, context: 64, vocab: 1000}\n"
         "data: {train: given by the test}\n"
         "batch: {global: 16, micro: 8}\n"
         "train: {steps: 100}\n"
         "optimizer: {learning_rate: 5e-5}\n"  // more, and these tokens without structure make it
                                               // leap
         "schedule: {warmup_steps: 10}\n";
}

const test::TestDevice* gpu() {
  for (const test::TestDevice& device : test::devices_under_test())
    if (!device.stand_in) return &device;
  return nullptr;
}

TEST(DeviceTraining, AHundredStepsOnAGpuFollowTheCpu) {
  if (gpu() == nullptr) GTEST_SKIP() << test::why_no_gpu();
  TrainingWorld world(gpu_config());
  for (const char* type : {"fp32", "bf16", "fp16"}) {
    TrainingRun run;
    run.overrides = {std::string("precision.compute=") + type};
    run.threads = 8;
    const TrainingResult cpu = world.train(run);
    run.device = backend_of(*gpu());
    const TrainingResult first = world.train(run);
    expect_same_curve(first, cpu, std::string(type) == "fp32" ? 1e-3 : 1e-2, type);
    const TrainingResult second = world.train(run);
    EXPECT_EQ(first.state, second.state) << type;
    EXPECT_EQ(first.ledger, second.ledger) << type;
    run.overrides.emplace_back("run.reproducible=none");
    expect_same_curve(world.train(run), cpu, 1e-2, std::string(type) + ", reproducible none");
  }
}

// In the steady state the device never waits for the host: when the host comes to wait for the end
// of a step, all of the next one is on the stream, also where a step goes wrong. And nothing is
// allocated. Seen from the calls that the stand-in is given.
TEST(DeviceTraining, TheHostRunsAStepAhead) {
  if (test::only_gpu()) GTEST_SKIP() << "calls are recorded by the stand-in only";
  TrainingWorld world(small_config());
  for (const char* more : {"clip.mode=global_norm", "clip.mode=adagc", "optimizer.name=muon",
                           "fault=[{kind: overflow, step: 3, rank: 0, layer: 1}]",
                           "fault=[{kind: nan, step: 3, rank: 0, layer: 1}]"}) {
    const bool drill = std::string(more).starts_with("fault");
    TrainingRun run;
    run.overrides = {"precision.compute=bf16",    "model.dropout=0.1",       "train.steps=5",
                     "health.on_divergence=skip", "health.replay_bundles=0", more};
    run.device = backend_of(test::devices_under_test().front());
    run.body = [&](Rank& rank) {
      ASSERT_FALSE(rank.trainer.advance().has_value());
      ASSERT_TRUE(rank.trainer.advance().has_value());
      for (int step = 3; step <= 4; ++step) {
        std::vector<std::string> calls;
        core::cuda::stand_in_settings().record = &calls;
        ASSERT_TRUE(rank.trainer.advance().has_value());
        core::cuda::stand_in_settings().record = nullptr;
        EXPECT_EQ(rank.trainer.launched(), step);
        EXPECT_EQ(rank.trainer.progress().step, step - 1);
        // A drill waits for what it spoils.
        EXPECT_EQ(std::count(calls.begin(), calls.end(), "synchronize"),
                  drill && step == 3 ? 1 : 0);
        // Uploads wait too, for one long past of theirs.
        const auto last = std::find(calls.rbegin(), calls.rend(), "await").base();
        for (const char* name : {"launch cross_entropy", "launch first_nonfinite", "launch decide",
                                 "launch optimizer_update", "launch hash_messages"}) {
          const auto named = [&](const std::string& call) { return call.starts_with(name); };
          EXPECT_TRUE(std::any_of(calls.begin(), last, named)) << name;
          EXPECT_FALSE(std::any_of(last, calls.end(), named)) << name;
        }
        for (const std::string& call : calls)
          EXPECT_FALSE(call.starts_with("allocate")) << call;
      }
      rank.step_to_end();
    };
    const TrainingResult result = world.train(run);
    EXPECT_FALSE(result.error.has_value()) << result.message;
  }
}

TEST(DeviceTraining, HoldsWhatThePlanSays) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const Case& c : cases()) {
      TrainingRun run;
      run.overrides = c.overrides;
      run.device = backend_of(device);
      run.body = [&](Rank& rank) {
        rank.trainer.step();
        const std::size_t after_one = rank.memory.peak();
        rank.step_to_end();
        EXPECT_EQ(rank.memory.peak(), after_one) << "allocated in the steady state: " << c.name;
        const runtime::MemoryPlan plan = runtime::plan_memory(rank.config, 1, 1);
        const auto actual = rank.memory.regions();
        for (const runtime::PlannedRegion& region : plan.regions) {
          const auto found = actual.find(region.name);
          const std::size_t peak = found == actual.end() ? 0 : found->second.peak;
          // Of the tables the plan knows a bound.
          const bool bound = region.name == ops::kTablesRegion;
          EXPECT_TRUE(bound ? peak <= region.bytes : peak == region.bytes)
              << device.name << ", " << c.name << ": " << region.name << " is " << peak
              << ", planned " << region.bytes;
        }
        for (const auto& [name, usage] : actual)
          EXPECT_TRUE(usage.peak == 0 || plan.bytes_of(name) > 0) << name << " is not planned";
      };
      const TrainingResult result = world.train(run);
      EXPECT_FALSE(result.error.has_value()) << result.message;
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
