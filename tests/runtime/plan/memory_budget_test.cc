// A rank that lacks memory is found out by all, before anything is allocated.
#include "runtime/plan/memory_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>

#include "runtime/plan/memory_advice.h"
#include "runtime/plan/memory_plan.h"
#include "tests/support/training_world.h"

namespace lockstep::runtime {
namespace {

using lockstep::testing::TrainingRun;
using lockstep::testing::TrainingWorld;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr std::uint64_t kGigabyte = std::uint64_t{1} << 30;

MemoryReport report(const char* host, std::uint64_t needed, std::uint64_t limit = 0) {
  MemoryReport report;
  std::strncpy(report.host.data(), host, report.host.size() - 1);
  report.needed = needed;
  report.limit = limit;
  report.mappable = needed;
  report.node_total = 8 * kGigabyte;
  report.node_free = 6 * kGigabyte;
  return report;
}

MemoryShortage shortage_of(const std::vector<MemoryReport>& reports) {
  return find_shortage(reports);
}

TEST(FindShortage, NothingIsMissing) {
  EXPECT_FALSE(shortage_of({report("a", kGigabyte), report("a", kGigabyte, kGigabyte)}).found());
  // 8 GiB on each of two hosts that hold 8 GiB.
  EXPECT_FALSE(shortage_of({report("a", 8 * kGigabyte), report("b", 8 * kGigabyte)}).found());
}

TEST(FindShortage, TheLimitOfOneRank) {
  const MemoryShortage shortage = shortage_of(
      {report("a", kGigabyte), report("b", kGigabyte, kGigabyte - 1), report("b", 9 * kGigabyte)});
  EXPECT_EQ(shortage.rank, 1);
  EXPECT_EQ(shortage.host, "b");
  EXPECT_EQ(shortage.budget, kGigabyte - 1);
  EXPECT_EQ(shortage.cause, "memory.limit_mib");
}

TEST(FindShortage, WhatTheSystemRefuses) {
  MemoryReport refused = report("a", kGigabyte);
  refused.mappable = kGigabyte / 2;
  const MemoryShortage shortage = shortage_of({report("a", kGigabyte), refused});
  EXPECT_EQ(shortage.rank, 1);
  EXPECT_EQ(shortage.budget, kGigabyte / 2);
  EXPECT_THAT(shortage.cause, HasSubstr("ulimit -v"));
}

// Two ranks that share a device, and one alone on the other.
TEST(FindShortage, RanksThatTogetherExceedTheirDevice) {
  const auto on_device = [](int ordinal, std::uint64_t needed, std::uint64_t free) {
    MemoryReport mine = report("a", kGigabyte);
    mine.device = ordinal;
    mine.device_needed = needed;
    mine.device_free = free;
    mine.device_total = 8 * kGigabyte;
    return mine;
  };
  const auto reports = [&](std::uint64_t third) {
    return std::vector<MemoryReport>{on_device(0, 6 * kGigabyte, 6 * kGigabyte),
                                     on_device(1, 3 * kGigabyte, 7 * kGigabyte),
                                     on_device(1, third, 6 * kGigabyte)};
  };
  EXPECT_FALSE(shortage_of(reports(3 * kGigabyte)).found());
  const MemoryShortage shortage = shortage_of(reports(4 * kGigabyte));
  EXPECT_EQ(shortage.rank, 1);
  EXPECT_EQ(shortage.needed, 3 * kGigabyte);
  EXPECT_EQ(shortage.budget, 3 * kGigabyte);
  EXPECT_TRUE(shortage.on_device);
  EXPECT_THAT(shortage.cause, AllOf(HasSubstr("CUDA device 1"), HasSubstr("6144.0 MiB free"),
                                    HasSubstr("8192.0 MiB"), HasSubstr("2 ranks")));
}

TEST(FindShortage, RanksThatTogetherExceedTheirMachine) {
  const MemoryShortage shortage = shortage_of(
      {report("a", 5 * kGigabyte), report("b", 5 * kGigabyte), report("b", 4 * kGigabyte)});
  EXPECT_EQ(shortage.rank, 1);
  EXPECT_EQ(shortage.budget, 4 * kGigabyte);
  EXPECT_TRUE(shortage.by_machine);
  EXPECT_THAT(shortage.cause, AllOf(HasSubstr("2 ranks"), HasSubstr("9216.0 MiB together")));
}

TEST(MemoryWarnings, MoreThanIsFreeNow) {
  const std::vector<MemoryReport> reports = {report("a", 5 * kGigabyte), report("b", 4 * kGigabyte),
                                             report("b", 3 * kGigabyte)};
  EXPECT_THAT(memory_warnings(reports),
              ElementsAre(AllOf(HasSubstr("2 ranks on host b"), HasSubstr("7168.0 MiB"))));
}

double mebibytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

class FitTest : public ::testing::Test {
 protected:
  static constexpr int kRanks = 3;
  static constexpr int kSmall = 1;  // the rank with a limit

  Config config(const std::vector<std::string>& more = {}) const {
    TrainingRun run;
    run.overrides = {"batch.global=24", "batch.micro=8"};
    run.overrides.insert(run.overrides.end(), more.begin(), more.end());
    return world_.config_of(run);
  }
  static std::uint64_t planned(const Config& config) {
    return plan_memory(config, kRanks, 1, kSmall).total();
  }

  // What every rank gets, when one of them may take `limit` bytes.
  std::vector<std::string> outcomes(const Config& base, std::uint64_t limit) const {
    std::vector<std::string> outcomes(kRanks);
    const comm::LocalWorld world(kRanks, std::chrono::seconds(60));
    world.run([&](comm::Communicator& communicator) {
      Config mine = base;
      if (communicator.rank() == kSmall) mine.memory.limit_mib = mebibytes(limit);
      core::Logger log(communicator.rank(), kRanks, core::LogLevel::kError);
      std::string& outcome = outcomes[static_cast<std::size_t>(communicator.rank())];
      try {
        const FittedConfig fitted = fit_to_memory(mine, 1, communicator, {}, log);
        outcome = fmt::format("micro {} {}", fitted.config.batch.micro, fitted.health);
      } catch (const AgreedError& error) {
        outcome = fmt::format("exit {}: {}", error.exit_code(), error.what());
      }
      // Nobody was left behind in a collective.
      communicator.barrier("after");
    });
    for (const std::string& outcome : outcomes)
      EXPECT_EQ(outcome, outcomes.front());
    return outcomes;
  }

  TrainingWorld world_{lockstep::testing::tiny_config()};
};

TEST_F(FitTest, EnoughForAll) {
  EXPECT_EQ(outcomes(config(), planned(config())).front(), "micro 8 ");
}

TEST_F(FitTest, OneRankShortOfOneByteStopsAll) {
  const std::string outcome = outcomes(config(), planned(config()) - 1).front();
  EXPECT_THAT(outcome, AllOf(HasSubstr("exit 6: rank 1 (host "), HasSubstr("memory.limit_mib"),
                             HasSubstr("activations"), HasSubstr("batch.micro=4 (")));
}

TEST_F(FitTest, HalvesUntilItFits) {
  const Config asked = config({"memory.on_exhausted=halve_micro"});
  Config fits = asked;
  fits.batch.micro = 2;
  const std::string outcome = outcomes(asked, planned(fits)).front();
  EXPECT_THAT(outcome, AllOf(HasSubstr("micro 2 "), HasSubstr(R"("kind":"micro_batch_halved")"),
                             HasSubstr(R"("asked_micro":8,"micro":2,"rounds":4,"rank":1)")));
}

TEST_F(FitTest, GivesUpAtOneSequence) {
  const Config asked = config({"memory.on_exhausted=halve_micro"});
  EXPECT_THAT(outcomes(asked, 1000).front(),
              AllOf(HasSubstr("exit 6"),
                    HasSubstr("no batch.micro, no memory.recompute and no parallel.zero_stage")));
}

// Every change that is offered fits, and none was needed for what fits already.
TEST_F(FitTest, AdviceIsTrue) {
  const Config asked = config({"parallel.zero_stage=0"});
  for (const double part : {0.9, 0.7, 0.5, 0.3, 0.2}) {
    const auto budget = static_cast<std::uint64_t>(part * static_cast<double>(planned(asked)));
    for (const MemoryAdvice& advice : advise_memory(asked, kRanks, 1, kSmall, budget, true)) {
      EXPECT_LE(advice.bytes, budget) << advice.change;
      EXPECT_GT(advice.bytes, 0U) << advice.change;
    }
  }
  const auto change = [](const Config& config, double part) {
    const auto budget = static_cast<std::uint64_t>(part * static_cast<double>(planned(config)));
    return to_text(advise_memory(config, kRanks, 1, kSmall, budget, true));
  };
  EXPECT_THAT(change(asked, 0.9), StartsWith("batch.micro="));
  const Config least = config({"parallel.zero_stage=0", "batch.micro=1"});
  EXPECT_THAT(change(least, 0.99), StartsWith("memory.recompute="));
  EXPECT_THAT(change(least, 0.99), HasSubstr("or parallel."));
  EXPECT_THAT(change(asked, 0.001), IsEmpty());
}

// What stands before it in the order does not fit; tried, it stays within the budget.
TEST_F(FitTest, TheFirstSettingThatFitsIsTheFirstAndFitsWhenTried) {
  const Config asked = config({"parallel.zero_stage=0", "parallel.grad_sync=boundary"});
  Config least = asked;
  least.batch.micro = 1;
  least.memory.recompute = Recompute::kBlock;
  least.parallel.zero_stage = 1;  // with every_round stage 2 holds the same
  least.parallel.grad_sync = GradSync::kEveryRound;
  const std::uint64_t most = plan_memory(asked, kRanks, 1).total();
  const std::uint64_t fewest = plan_memory(least, kRanks, 1).total();
  std::vector<std::string> texts;
  for (const std::uint64_t budget :
       {most, most - 1, (2 * most + fewest) / 3, (most + 2 * fewest) / 3, fewest}) {
    const auto setting = first_fitting(asked, kRanks, 1, 0, budget, true);
    ASSERT_TRUE(setting.has_value()) << budget;
    texts.push_back(setting->to_text());
    SCOPED_TRACE(texts.back());
    TrainingRun run;
    run.ranks = setting->ranks;
    run.overrides = {"batch.global=24",
                     "train.steps=2",
                     "schedule.warmup_steps=1",
                     fmt::format("batch.micro={}", setting->micro),
                     fmt::format("memory.recompute={}", name_of(setting->recompute)),
                     fmt::format("parallel.zero_stage={}", setting->zero_stage),
                     setting->grad_sync == GradSync::kBoundary ? "parallel.grad_sync=boundary"
                                                               : "parallel.grad_sync=every_round"};
    run.body = [&](lockstep::testing::Rank& rank) {
      rank.trainer.run();
      EXPECT_LE(rank.memory.peak(), budget);
      if (rank.number() == 0) {
        EXPECT_EQ(rank.memory.peak(), setting->bytes);
      }
    };
    EXPECT_FALSE(world_.train(run).error.has_value());
  }
  EXPECT_EQ(texts.front(),
            "batch.micro=8, memory.recompute=none, parallel.zero_stage=0, "
            "parallel.grad_sync=boundary, 3 ranks");
  EXPECT_THAT(texts[1],
              AllOf(StartsWith("batch.micro=4, memory.recompute=none"), HasSubstr("zero_stage=0")));
  EXPECT_EQ(texts.back(),
            "batch.micro=1, memory.recompute=block, parallel.zero_stage=1, "
            "parallel.grad_sync=every_round, 3 ranks");
  EXPECT_FALSE(first_fitting(asked, kRanks, 1, 0, 1000, true).has_value());
}

// What it does to the curve: nothing that shows.
TEST_F(FitTest, HalfTheMicroBatchIsTheSameCurve) {
  const auto curve = [&](int micro) {
    TrainingRun run;
    run.ranks = kRanks;
    run.overrides = {"batch.global=24", fmt::format("batch.micro={}", micro), "train.steps=20"};
    std::vector<double> losses;
    for (const StepDecision& decision : world_.train(run).decisions)
      losses.push_back(decision.loss);
    return losses;
  };
  const std::vector<double> whole = curve(8);
  const std::vector<double> halved = curve(2);
  ASSERT_EQ(whole.size(), 20U);
  for (std::size_t i = 0; i < whole.size(); ++i)
    EXPECT_NEAR(halved[i], whole[i], 1e-5 * whole[i]) << "step " << i + 1;
}

// Were the plan wrong: one rank fails half built, and all end alike.
TEST_F(FitTest, AnAllocationThatFailsWhileBuildingEndsAll) {
  const std::string output = (world_.directory() / "out").string();
  std::filesystem::create_directories(output);
  Config whole = config();
  whole.run.output = output;
  whole.data.train = {(world_.directory() / "tokens.bin").string()};
  for (const double part : {0.05, 0.5, 0.99}) {  // the last one within the first step
    std::vector<std::string> messages(kRanks);
    const comm::LocalWorld world(kRanks, std::chrono::seconds(60));
    world.run([&](comm::Communicator& communicator) {
      core::MemoryTracker memory;
      core::Logger log(communicator.rank(), kRanks, core::LogLevel::kError);
      if (communicator.rank() == kSmall)
        memory.set_limit(static_cast<std::size_t>(part * static_cast<double>(planned(whole))));
      try {
        Trainer trainer(whole, 1, communicator, memory, log);
        trainer.start("");
        trainer.step();
        communicator.barrier("after");
      } catch (const core::Error& error) {
        communicator.abort(error.kind(), error.what());
        EXPECT_EQ(error.kind(), core::ErrorKind::kOutOfMemory) << error.what();
        messages[static_cast<std::size_t>(communicator.rank())] = error.what();
      }
    });
    EXPECT_THAT(messages[kSmall], HasSubstr("cannot allocate")) << part;
    for (const int peer : {0, 2})
      EXPECT_THAT(messages[static_cast<std::size_t>(peer)],
                  AllOf(HasSubstr("rank 1"), HasSubstr("cannot allocate")))
          << part;
  }
}

// The allocator itself holds to the limit.
TEST(MemoryLimit, TheTrackerRefuses) {
  core::MemoryTracker tracker;
  tracker.set_limit(1000);
  const core::Buffer first(tracker, "parameters", 600);
  try {
    const core::Buffer second(tracker, "gradients", 401);
    FAIL() << "a buffer above the limit was allocated";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kOutOfMemory);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("gradients"), HasSubstr("memory.limit_mib")));
  }
  EXPECT_EQ(tracker.current(), 600U);
  const core::Buffer third(tracker, "gradients", 400);
}

}  // namespace
}  // namespace lockstep::runtime
