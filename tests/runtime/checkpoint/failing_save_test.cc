#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/snapshot.h"
#include "tests/support/training_world.h"

namespace {

// The next call of this kind on a path that contains this text fails.
std::atomic<const char*> write_trap{nullptr};
std::atomic<const char*> sync_trap{nullptr};
std::atomic<const char*> rename_trap{nullptr};
// What a sync of a file of tensors takes.
std::atomic<int> sync_milliseconds{0};

bool caught(const std::atomic<const char*>& trap, const std::string& path) {
  const char* text = trap.load();
  return text != nullptr && path.find(text) != std::string::npos;
}

std::string path_of(int descriptor) {
  char buffer[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t n = readlink(link.c_str(), buffer, sizeof(buffer));
  return n > 0 ? std::string(buffer, static_cast<std::size_t>(n)) : std::string();
}

}  // namespace

// These stand before the C library's in this program.
extern "C" {
ssize_t write(int descriptor, const void* data, size_t bytes) {
  if (write_trap.load() != nullptr && caught(write_trap, path_of(descriptor))) {
    errno = ENOSPC;
    return -1;
  }
  return syscall(SYS_write, descriptor, data, bytes);
}
int fsync(int descriptor) {
  if (sync_trap.load() != nullptr && caught(sync_trap, path_of(descriptor))) {
    errno = EIO;
    return -1;
  }
  if (sync_milliseconds > 0 && path_of(descriptor).ends_with(".safetensors"))
    std::this_thread::sleep_for(std::chrono::milliseconds(sync_milliseconds.load()));
  return static_cast<int>(syscall(SYS_fsync, descriptor));
}
int rename(const char* from, const char* to) noexcept {
  if (caught(rename_trap, to)) {
    errno = EROFS;
    return -1;
  }
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
}

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

struct FailingSave {
  const char* name;
  std::atomic<const char*>* trap;
  const char* path;
  const char* reason;
};

class FailingSaveTest : public ::testing::TestWithParam<FailingSave> {
 protected:
  void TearDown() override {
    for (std::atomic<const char*>* trap : {&write_trap, &sync_trap, &rename_trap})
      *trap = nullptr;
  }
};

std::vector<std::string> entries(const std::string& checkpoints) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST_P(FailingSaveTest, EndsOnAllRanksAndLeavesTheOneBefore) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.ranks = 3;
  run.body = [](Rank& rank) {
    rank.trainer.step();
    rank.trainer.save_checkpoint();
    rank.trainer.step();
    *GetParam().trap = GetParam().path;
    rank.trainer.save_checkpoint();
  };
  const TrainingResult result = world.train(run);
  ASSERT_TRUE(result.error);
  EXPECT_EQ(*result.error, core::ErrorKind::kData);
  EXPECT_THAT(result.message, HasSubstr(GetParam().path));
  EXPECT_THAT(result.message, HasSubstr(GetParam().reason));
  const std::string checkpoints = result.output + "/checkpoints";
  EXPECT_EQ(entries(checkpoints), (std::vector<std::string>{"latest", "step-00000001"}));
  EXPECT_EQ(read_file(checkpoints + "/latest"), "step-00000001\n");
  runtime::verify_checkpoint(runtime::read_manifest(checkpoints + "/step-00000001"));
}

INSTANTIATE_TEST_SUITE_P(
    Calls, FailingSaveTest,
    ::testing::Values(
        FailingSave{"WriteModel", &write_trap, "model.safetensors", "No space left"},
        FailingSave{"WriteShardOfAnotherRank", &write_trap, "optimizer-00001-of-00003",
                    "No space left"},
        FailingSave{"WriteManifest", &write_trap, "manifest.json", "No space left"},
        FailingSave{"SyncModel", &sync_trap, "model.safetensors", "Input/output error"},
        FailingSave{"SyncShardOfAnotherRank", &sync_trap, "optimizer-00002-of-00003",
                    "Input/output error"},
        FailingSave{"SyncConfig", &sync_trap, "config.yaml", "Input/output error"},
        FailingSave{"SyncManifest", &sync_trap, "manifest.json", "Input/output error"},
        FailingSave{"RenameDirectory", &rename_trap, "step-00000002", "Read-only file system"}),
    [](const auto& test) { return test.param.name; });

TrainingRun saving_run(bool async, int every) {
  TrainingRun run;
  run.ranks = 3;
  run.overrides = {"train.steps=8", fmt::format("checkpoint.every_steps={}", every),
                   "checkpoint.keep=100", fmt::format("checkpoint.async={}", async)};
  run.body = [](Rank& rank) { rank.trainer.run(); };
  return run;
}

// The files of a run whose saves are slower than its steps equal those of a run that waits.
TEST(SavingWhileTraining, GivesTheSameCheckpoints) {
  TrainingWorld world(tiny_config());
  for (const int every : {1, 3}) {
    SCOPED_TRACE(every);
    const TrainingResult waiting = world.train(saving_run(false, every));
    ASSERT_FALSE(waiting.error) << waiting.message;
    sync_milliseconds = 40;
    const TrainingResult result = world.train(saving_run(true, every));
    sync_milliseconds = 0;
    ASSERT_FALSE(result.error) << result.message;
    EXPECT_EQ(result.state, waiting.state);
    EXPECT_EQ(result.step_lines(), waiting.step_lines());
    const std::vector<std::string> names = entries(result.output + "/checkpoints");
    EXPECT_EQ(names.size(), every == 1 ? 9U : 4U);
    EXPECT_EQ(names, entries(waiting.output + "/checkpoints"));
    for (const std::string& name : names) {
      if (name == "latest") continue;
      for (const char* file : {"model.safetensors", "optimizer-00000-of-00003.safetensors",
                               "optimizer-00002-of-00003.safetensors"}) {
        const std::string path = "/checkpoints/" + name + "/" + file;
        EXPECT_EQ(read_file(result.output + path), read_file(waiting.output + path)) << path;
      }
    }
    TrainingRun resumed = saving_run(true, every);
    resumed.resume = result.output + "/checkpoints/step-00000003";
    const TrainingResult again = world.train(resumed);
    ASSERT_FALSE(again.error) << again.message;
    EXPECT_EQ(again.state, waiting.state);
  }
}

// Steps go on while files are synced: the line of a checkpoint comes after later steps' lines.
TEST(SavingWhileTraining, DoesNotWait) {
  TrainingWorld world(tiny_config());
  sync_milliseconds = 300;
  const TrainingResult result = world.train(saving_run(true, 2));
  sync_milliseconds = 0;
  ASSERT_FALSE(result.error) << result.message;
  std::vector<std::string> events;
  for (const auto& line : result.lines) {
    if (line["event"] == "step" || line["event"] == "checkpoint")
      events.push_back(
          fmt::format("{} {}", line["event"].get<std::string>(), line["step"].get<int>()));
  }
  const auto place = [&](const std::string& event) {
    return std::find(events.begin(), events.end(), event) - events.begin();
  };
  EXPECT_LT(place("step 3"), place("checkpoint 2"));
  EXPECT_LT(place("checkpoint 2"), place("checkpoint 4"));
  EXPECT_EQ(events.back(), "checkpoint 8");
}

TEST(SavingWhileTraining, ReportsAFailureAtALaterStep) {
  TrainingWorld world(tiny_config());
  TrainingRun run = saving_run(true, 3);
  run.body = [](Rank& rank) {
    sync_trap = "optimizer-00001-of-00003";
    rank.trainer.run();
  };
  const TrainingResult result = world.train(run);
  sync_trap = nullptr;
  ASSERT_TRUE(result.error);
  EXPECT_EQ(*result.error, core::ErrorKind::kData);
  EXPECT_THAT(result.message, HasSubstr("rank 1: "));
  EXPECT_THAT(result.message, HasSubstr("optimizer-00001-of-00003"));
  EXPECT_TRUE(entries(result.output + "/checkpoints").empty());
}

TEST(SavingWhileTraining, FinishesWhatIsInFlightWhenTheRunBreaks) {
  TrainingWorld world(tiny_config());
  TrainingRun run = saving_run(true, 3);
  run.append = "fault: [{kind: nan, step: 4, rank: 1, layer: 0}]\n";
  sync_milliseconds = 100;
  const TrainingResult result = world.train(run);
  sync_milliseconds = 0;
  ASSERT_TRUE(result.error);
  EXPECT_EQ(*result.error, core::ErrorKind::kDiverged);
  EXPECT_EQ(entries(result.output + "/checkpoints"),
            (std::vector<std::string>{"latest", "step-00000003"}));
}

TEST(SavingWhileTraining, TakesOneSnapshotOfMemory) {
  TrainingWorld world(tiny_config());
  for (const int stage : {0, 2}) {
    TrainingRun run = saving_run(true, 1);
    run.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
    run.body = [stage](Rank& rank) {
      const std::size_t before = rank.memory.regions()["checkpoint"].current;
      rank.trainer.run();
      const auto usage = rank.memory.regions()["checkpoint"];
      EXPECT_EQ(usage.peak, before);
      EXPECT_EQ(before, runtime::Snapshot::bytes(rank.trainer.state().layout(),
                                                 rank.trainer.state().state_tensors(), stage,
                                                 rank.number()));
    };
    EXPECT_FALSE(world.train(run).error);
  }
}

// Checkpoint 4 is healthy from step 14 on and outlives checkpoint.keep.
TEST(HealthyCheckpoint, IsMarkedAfterGoodStepsAndStays) {
  TrainingWorld world(tiny_config());
  TrainingRun run = saving_run(true, 4);
  run.output = "own";
  run.overrides = {"train.steps=15", "checkpoint.every_steps=4", "checkpoint.keep=3"};
  const auto healthy = [&](const TrainingResult& result, int step) {
    return read_file(fmt::format("{}/checkpoints/step-{:08}/healthy", result.output, step));
  };
  TrainingResult result = world.train(run);
  ASSERT_FALSE(result.error) << result.message;
  EXPECT_EQ(healthy(result, 4), "{\"version\":1,\"promoted_at_step\":14}\n");
  EXPECT_EQ(healthy(result, 8), "");
  run.resume = result.output + "/checkpoints/step-00000012";
  run.overrides = {"train.steps=17", "checkpoint.every_steps=1", "checkpoint.keep=2"};
  result = world.train(run);
  ASSERT_FALSE(result.error) << result.message;
  EXPECT_EQ(
      entries(result.output + "/checkpoints"),
      (std::vector<std::string>{"latest", "step-00000004", "step-00000016", "step-00000017"}));
  runtime::verify_checkpoint(runtime::read_manifest(result.output + "/checkpoints/step-00000004"));
}

TEST(NonFiniteWeights, AreNeverSaved) {
  for (const int stage : {0, 2}) {
    for (const char* compute : {"fp32", "bf16"}) {
      SCOPED_TRACE(fmt::format("stage {} {}", stage, compute));
      TrainingWorld world(tiny_config());
      TrainingRun run;
      run.ranks = 3;
      run.overrides = {fmt::format("parallel.zero_stage={}", stage),
                       fmt::format("precision.compute={}", compute)};
      run.body = [](Rank& rank) {
        rank.trainer.step();
        rank.trainer.save_checkpoint();
        rank.trainer.step();
        rank.trainer.state().finish_gather();
        if (rank.number() == 1) {
          // The last element that this rank updates.
          const runtime::OwnedRun& last =
              rank.trainer.state().owned_runs(rank.trainer.state().layout().size() - 2).back();
          last.master.data<float>()[last.segment.count - 1] =
              -std::numeric_limits<float>::infinity();
        }
        rank.trainer.save_checkpoint();
      };
      const TrainingResult result = world.train(run);
      ASSERT_TRUE(result.error);
      EXPECT_EQ(*result.error, core::ErrorKind::kDiverged);
      EXPECT_THAT(result.message, HasSubstr("on 1 of 3 ranks; first 1 elements on rank 1"));
      EXPECT_THAT(result.message, HasSubstr("block.1"));
      EXPECT_EQ(entries(result.output + "/checkpoints"),
                (std::vector<std::string>{"latest", "step-00000001"}));
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
