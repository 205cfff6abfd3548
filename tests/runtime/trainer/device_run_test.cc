#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "comm/nccl/nccl_communicator.h"
#include "ops/transfer.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/replay/replay_bundle.h"
#include "tests/comm/nccl_stand_in.h"
#include "tests/support/decision_device.h"
#include "tests/support/training_world.h"

// Whole runs on a device, where the host is a step behind: what it then does later than on the CPU,
// and that nothing else comes of it.
namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using test::backend_of;

std::string small_config() {
  return "run: {seed: 7}\n"
         "model: {layers: 2, heads: 2, width: 16, context: 8, vocab: 32}\n"
         "data: {train: given by the test}\n"
         "batch: {global: 4, micro: 2}\n"
         "train: {steps: 8}\n"
         "optimizer: {learning_rate: 2e-3}\n"
         "schedule: {warmup_steps: 2, total_steps: 100}\n";
}

TrainingRun on(const test::TestDevice& device, std::vector<std::string> overrides = {}) {
  TrainingRun run;
  run.device = backend_of(device);
  run.overrides = std::move(overrides);
  run.body = [](Rank& rank) { rank.trainer.run(); };
  return run;
}

// Each step settled before the next is launched.
TrainingRun one_by_one(TrainingRun run) {
  run.body = [](Rank& rank) {
    while (rank.trainer.progress().step < rank.config.train.steps)
      rank.trainer.step();
  };
  return run;
}

bool has_checkpoint(const TrainingResult& result, int step) {
  return fs::exists(fmt::format("{}/checkpoints/step-{:08}/manifest.json", result.output, step));
}

std::vector<std::int64_t> steps_of(const TrainingResult& result, const char* event = "step") {
  std::vector<std::int64_t> steps;
  for (const auto& line : result.lines)
    if (line["event"] == event) steps.push_back(line["step"].get<std::int64_t>());
  return steps;
}

std::vector<std::int64_t> up_to(std::int64_t last) {
  std::vector<std::int64_t> steps;
  for (std::int64_t step = 1; step <= last; ++step)
    steps.push_back(step);
  return steps;
}

struct Ahead {
  const char* outcome;  // that must come up beside "applied"
  int ranks;
  std::vector<std::string> overrides;
};

// The scale begins far too high, so that a stretch of overflows meets updates that are under way;
// spikes are looked for with a factor that finds some.
TEST(DeviceRun, RunningAheadChangesNoBit) {
  const std::vector<Ahead> cases = {
      {"overflow",
       2,
       {"precision.compute=fp16", "precision.loss_scale.initial=16777216",
        "precision.loss_scale.growth_interval=2"}},
      {"applied",
       2,
       {"train.steps=4", "clip.mode=adagc", "clip.warmup_steps=2", "optimizer.name=muon",
        "optimizer.muon.ns_steps=1"}},
      {"applied",
       2,
       {"train.steps=4", "clip.mode=value", "clip.threshold=0.01", "optimizer.name=sgd",
        "parallel.zero_stage=0"}},
      {"spike",
       1,
       {"train.steps=24", "batch.global=2", "health.spike_factor=0.3", "health.on_divergence=skip",
        "precision.loss_scale.max_consecutive_skips=100", "optimizer.learning_rate=0.05"}}};
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    for (const Ahead& each : cases) {
      TrainingRun run = on(device, each.overrides);
      run.ranks = each.ranks;
      const TrainingResult ahead = world.train(run);
      const TrainingResult settled = world.train(one_by_one(run));
      ASSERT_FALSE(ahead.error.has_value()) << ahead.message;
      ASSERT_FALSE(settled.error.has_value()) << settled.message;
      EXPECT_EQ(ahead.state, settled.state) << device.name << ", " << each.outcome;
      EXPECT_EQ(ahead.step_lines(), settled.step_lines());
      EXPECT_EQ(ahead.ledger, settled.ledger);
      for (const char* outcome : {each.outcome, "applied"}) {
        const std::string text = fmt::format(R"("outcome":"{}")", outcome);
        EXPECT_NE(ahead.ledger.find(text), std::string::npos) << each.outcome;
      }
    }
  }
}

// Over NCCL's stand-in, an infinity on one rank: all ranks skip together, whatever the stage, and
// every host's replay agrees with its device (or the run would have ended).
TEST(DeviceRun, OverNcclAllRanksSkipTogether) {
  if (test::only_gpu()) GTEST_SKIP() << "NCCL's stand-in reaches the memory of the other one only";
  const test::TestDevice& device = test::devices_under_test().front();
  TrainingWorld world(small_config());
  for (const char* type : {"bf16", "fp16"}) {
    TrainingRun run = on(device, {"train.steps=4", "batch.micro=1", "health.replay_bundles=0",
                                  std::string("precision.compute=") + type});
    const TrainingResult one = world.train(run);
    ASSERT_FALSE(one.error) << one.message;
    run.append = "fault: [{kind: overflow, step: 2, rank: 1, layer: 1}]\n";
    run.connect = [&](std::unique_ptr<comm::Communicator> host) {
      return comm::make_nccl_communicator(std::move(host), device.ref,
                                          comm::testing::nccl_stand_in(), {});
    };
    for (const auto& [stage, ranks] :
         {std::pair{"0", 2}, std::pair{"1", 2}, std::pair{"2", 2}, std::pair{"2", 4}}) {
      SCOPED_TRACE(fmt::format("{}, stage {}, {} ranks", type, stage, ranks));
      TrainingRun sharded = run;
      sharded.ranks = ranks;
      sharded.overrides.push_back(std::string("parallel.zero_stage=") + stage);
      comm::testing::clear_nccl_state();
      comm::testing::nccl_state().at_once = true;
      const TrainingResult found = world.train(sharded);
      comm::testing::nccl_state().at_once = false;
      ASSERT_FALSE(found.error) << found.message;
      const auto lines = found.step_lines();
      ASSERT_EQ(lines.size(), 4U);
      const auto second = nlohmann::ordered_json::parse(lines[1]);
      EXPECT_EQ(second["overflow"], true);
      EXPECT_EQ(second["overflow_rank"], 1);
      EXPECT_EQ(second["overflow_bucket"], "block.1");
      const auto first = nlohmann::ordered_json::parse(lines[0]);
      const auto alone = nlohmann::ordered_json::parse(one.step_lines()[0]);
      EXPECT_NEAR(first["loss"].get<double>() / alone["loss"].get<double>(), 1.0, 1e-2);
      EXPECT_NEAR(first["grad_norm"].get<double>() / alone["grad_norm"].get<double>(), 1.0, 5e-2);
    }
  }
}

// What was launched meanwhile is part of the run: a checkpoint that is asked for holds it.
TEST(DeviceRun, ACheckpointAskedForIsSavedBehindTheStepUnderWay) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run = on(device);
    run.ranks = 2;
    const TrainingResult undisturbed = world.train(run);
    run.body = [](Rank& rank) {
      if (rank.number() == 1) rank.trainer.monitor().request_checkpoint(1);
      rank.trainer.run();
    };
    const TrainingResult asked = world.train(run);
    ASSERT_FALSE(asked.error) << asked.message;
    EXPECT_FALSE(has_checkpoint(asked, 1));
    EXPECT_TRUE(has_checkpoint(asked, 2));
    EXPECT_FALSE(has_checkpoint(asked, 3)) << "asked for once";
    EXPECT_EQ(asked.state, undisturbed.state);
    EXPECT_EQ(asked.ledger, undisturbed.ledger);
  }
}

TEST(DeviceRun, AStopEndsBehindTheStepUnderWayAndIsResumed) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run = on(device);
    run.ranks = 2;
    const TrainingResult undisturbed = world.train(run);
    run.output = "stopped-" + device.name;
    run.body = [](Rank& rank) {
      if (rank.number() == 1) rank.trainer.monitor().request_stop(4);
      rank.trainer.run();
    };
    const TrainingResult stopped = world.train(run);
    EXPECT_EQ(stopped.error, core::ErrorKind::kStopped);
    EXPECT_TRUE(has_checkpoint(stopped, 2));
    EXPECT_EQ(steps_of(stopped), up_to(2));
    TrainingRun resumed = on(device);
    resumed.ranks = 2;
    resumed.output = run.output;
    resumed.resume = stopped.output + "/checkpoints/step-00000002";
    const TrainingResult again = world.train(resumed);
    ASSERT_FALSE(again.error) << again.message;
    EXPECT_EQ(again.state, undisturbed.state);
    EXPECT_EQ(again.ledger, undisturbed.ledger);
    EXPECT_EQ(steps_of(again), up_to(8));
  }
}

// Nothing is launched behind a step that is validated or saved before that is done.
TEST(DeviceRun, ValidatesAndSavesInOrder) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run = on(device, {"train.validate_every=3", "checkpoint.every_steps=4"});
    run.overrides.push_back("data.validation=" + (world.directory() / "tokens.bin").string());
    run.overrides.emplace_back("train.validate_batches=1");
    const TrainingResult result = world.train(run);
    ASSERT_FALSE(result.error) << result.message;
    EXPECT_EQ(steps_of(result, "validation"), (std::vector<std::int64_t>{3, 6, 8}));
    EXPECT_TRUE(has_checkpoint(result, 4) && has_checkpoint(result, 8));
    std::string order;
    for (const auto& line : result.lines) {
      const std::string event = line["event"];
      if (event == "step" || event == "validation") order += event.front();
    }
    EXPECT_EQ(order, "sssvsssvssv");
    TrainingRun resumed = on(device);
    resumed.resume = result.output + "/checkpoints/step-00000004";
    EXPECT_EQ(world.train(resumed).state, result.state);
  }
}

// A run that goes back gives up the step that was under way behind the broken one, and then equals
// one that skips the broken step where it stands.
TEST(DeviceRun, GoesBackFromADivergedStep) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    const auto diverging = [&](const char* policy) {
      TrainingRun run = on(device, {"train.steps=20", "checkpoint.every_steps=5",
                                    fmt::format("health.on_divergence={}", policy)});
      run.append = "fault: [{kind: nan, step: 17, rank: 1, layer: 1}]\n";
      run.ranks = 2;
      return run;
    };
    const TrainingResult back = world.train(diverging("rollback"));
    ASSERT_FALSE(back.error) << back.message;
    const TrainingResult skipped = world.train(diverging("skip"));
    ASSERT_FALSE(skipped.error) << skipped.message;
    EXPECT_EQ(back.state, skipped.state) << device.name;
    EXPECT_EQ(steps_of(back), up_to(20));
    EXPECT_NE(back.ledger.find("left_out"), std::string::npos);
    EXPECT_EQ(skipped.ledger.find("left_out"), std::string::npos);
  }
}

TEST(DeviceRun, StopsAtADivergedStep) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run = on(device);
    run.append = "fault: [{kind: nan, step: 3, rank: 0, layer: 1}]\n";
    const TrainingResult result = world.train(run);
    EXPECT_EQ(result.error, core::ErrorKind::kDiverged);
    EXPECT_NE(result.message.find("step 3"), std::string::npos) << result.message;
    EXPECT_NE(result.message.find("output of block 1"), std::string::npos) << result.message;
    EXPECT_EQ(steps_of(result), up_to(3));
  }
}

// The bundle of a broken step holds the weights of that step, although the next one, which was
// applied, came before it was written.
TEST(DeviceRun, ABundleHoldsTheWeightsOfItsStep) {
  TrainingWorld world(small_config());
  for (const test::TestDevice& device : test::devices_under_test()) {
    TrainingRun run = on(device, {"precision.compute=bf16", "health.on_divergence=skip"});
    run.append = "fault: [{kind: nan, step: 3, rank: 0, layer: 1}]\n";
    const TrainingResult result = world.train(run);
    ASSERT_FALSE(result.error) << result.message;
    const runtime::SafetensorsFile file(result.output + "/replay/step-00000003/" +
                                        runtime::kReplayWeightsFile);
    run.body = [&](Rank& rank) {
      rank.trainer.step();
      rank.trainer.step();
      for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id) {
        const core::ConstTensorView values = rank.trainer.state().parameter(id);
        std::vector<std::byte> bytes(values.bytes());
        ops::to_host(rank.trainer.context(), values, bytes.data());
        const std::string& name = rank.trainer.table()[id].name;
        const runtime::StoredTensor* kept = file.find(name);
        ASSERT_NE(kept, nullptr) << name;
        ASSERT_EQ(kept->bytes, bytes.size()) << name;
        std::vector<std::byte> stored(bytes.size());
        file.read_stored(*kept, stored.data());
        EXPECT_EQ(stored, bytes) << name;
      }
    };
    const TrainingResult two = world.train(run);
    EXPECT_FALSE(two.error) << two.message;
  }
}

// A device that decides otherwise than its host from the same reports ends the run and is named.
TEST(DeviceRun, ADeviceThatDecidesOtherwiseIsFound) {
  if (test::only_gpu()) GTEST_SKIP() << "the fault is put into memory that the host reaches";
  const test::TestDevice& device = test::devices_under_test().front();
  static runtime::DecisionBodies good = test::decision_bodies_of(device);
  runtime::DecisionBodies faulty = good;
  faulty.decide = [](ops::OpContext& context, const runtime::DecisionRules& rules,
                     const runtime::StepNumbers* numbers, int ranks, std::int64_t first_applied,
                     const runtime::DecisionMemory& memory) {
    const bool third = memory.state->applied_steps == 2;
    good.decide(context, rules, numbers, ranks, first_applied, memory);
    if (third) memory.decided->numbers.grad_norm *= 1.0 + 1e-15;
  };
  TrainingWorld world(small_config());
  TrainingRun run = on(device);
  run.device.decision = &faulty;
  const TrainingResult result = world.train(run);
  EXPECT_EQ(result.error, core::ErrorKind::kCommunication);
  EXPECT_NE(result.message.find("step 3: the device of rank 0 decided otherwise"),
            std::string::npos)
      << result.message;
  EXPECT_NE(result.message.find("grad_norm"), std::string::npos) << result.message;
  EXPECT_EQ(steps_of(result), up_to(2));
}

}  // namespace
}  // namespace lockstep::testing
