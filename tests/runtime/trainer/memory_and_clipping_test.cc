#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "runtime/plan/memory_plan.h"
#include "tests/support/training_world.h"

namespace lockstep::testing {
namespace {

using runtime::MemoryPlan;

std::vector<std::string> staged(int stage, const char* sync) {
  return {fmt::format("parallel.zero_stage={}", stage), fmt::format("parallel.grad_sync={}", sync)};
}

std::size_t planned(const MemoryPlan& plan, const std::string& region) {
  std::size_t bytes = 0;
  for (const runtime::PlannedRegion& each : plan.regions) {
    if (each.name == region) bytes += each.bytes;
  }
  return bytes;
}

// Deep and narrow, so that a full gradient is far more than two buckets.
TrainingRun deep_run(int ranks, const std::vector<std::string>& overrides) {
  TrainingRun run;
  run.ranks = ranks;
  run.overrides = {"model.layers=12", "train.steps=4"};
  run.overrides.insert(run.overrides.end(), overrides.begin(), overrides.end());
  return run;
}

TEST(Memory, StageTwoNeverHoldsAFullGradient) {
  TrainingWorld world(tiny_config());
  for (const char* compute : {"fp32", "bf16"}) {
    TrainingRun run = deep_run(4, staged(2, "every_round"));
    run.overrides.push_back(fmt::format("precision.compute={}", compute));
    run.body = [](Rank& rank) {
      rank.step_to_end();
      auto regions = rank.memory.regions();
      const std::size_t peak = regions["gradients"].peak + regions["buckets"].peak;
      const auto full = static_cast<std::size_t>(rank.trainer.table().total_elements()) *
                        core::size_of(rank.config.precision.compute);
      EXPECT_LT(peak, full);
      EXPECT_GT(peak, 0U);
    };
    const TrainingResult result = world.train(run);
    EXPECT_FALSE(result.error) << result.message;
  }
}

TEST(Memory, AgreesWithThePlanAndDoesNotGrowAfterTheFirstStep) {
  TrainingWorld world(tiny_config());
  for (const int stage : {0, 1, 2}) {
    for (const char* sync : {"every_round", "boundary"}) {
      for (const char* compute : {"fp32", "fp16"}) {
        SCOPED_TRACE(fmt::format("stage {} {} {}", stage, sync, compute));
        TrainingRun run = deep_run(3, staged(stage, sync));
        run.overrides.push_back(fmt::format("precision.compute={}", compute));
        run.body = [](Rank& rank) {
          rank.trainer.step();
          const auto first = rank.memory.regions();
          rank.step_to_end();
          for (auto& [name, usage] : rank.memory.regions()) {
            EXPECT_EQ(usage.current, first.at(name).current) << name;
            EXPECT_EQ(usage.peak, first.at(name).peak) << name;
          }
          const MemoryPlan plan = runtime::plan_memory(rank.config, 3, 1, rank.communicator.rank());
          for (const char* region :
               {"parameters", "optimizer", "gradients", "buckets", "checkpoint"}) {
            const auto found = rank.memory.regions();
            const std::size_t peak = found.contains(region) ? found.at(region).peak : 0;
            EXPECT_EQ(peak, planned(plan, region)) << region;
          }
          EXPECT_EQ(plan.total(), rank.memory.peak()) << runtime::to_table(plan, &rank.memory);
        };
        const TrainingResult result = world.train(run);
        EXPECT_FALSE(result.error) << result.message;
      }
    }
  }
}

// A reduce-scatter moves (N-1)/N of the padded elements in the wire's type, once a round or once a
// step.
TEST(Traffic, ReduceScatterMovesWhatTheFormulaSays) {
  TrainingWorld world(tiny_config());
  for (const int ranks : {1, 2, 3, 4}) {
    for (const char* sync : {"every_round", "boundary"}) {
      for (const char* compute : {"fp32", "bf16"}) {
        SCOPED_TRACE(fmt::format("{} ranks {} {}", ranks, sync, compute));
        TrainingRun run = deep_run(ranks, staged(2, sync));
        run.overrides.push_back(fmt::format("precision.compute={}", compute));
        run.body = [&](Rank& rank) {
          rank.trainer.step();
          rank.trainer.state().finish_gather();
          const comm::CommunicatorStats before = rank.communicator.stats();
          rank.trainer.step();
          rank.trainer.state().finish_gather();
          const auto& after = rank.communicator.stats();
          const auto n = static_cast<std::uint64_t>(ranks);
          const bool boundary = std::string(sync) == "boundary";
          const std::uint64_t wire = !boundary && std::string(compute) == "bf16" ? 2 : 4;
          const std::uint64_t rounds = boundary ? 1 : 12 / n;
          const auto padded =
              static_cast<std::uint64_t>(rank.trainer.state().layout().flat_elements());
          const std::uint64_t expected = rounds * wire * padded * (n - 1) / n;
          constexpr auto kReduce = comm::Collective::kReduceScatter;
          EXPECT_EQ(after[kReduce].bytes_sent - before[kReduce].bytes_sent, expected);
          EXPECT_EQ(after[kReduce].bytes_received - before[kReduce].bytes_received, expected);
          EXPECT_EQ(runtime::plan_memory(rank.config, ranks, 1).bytes_reduced, expected);
          EXPECT_EQ(after[comm::Collective::kAllReduce].calls, 0U);
        };
        const TrainingResult result = world.train(run);
        EXPECT_FALSE(result.error) << result.message;
      }
    }
  }
}

// Parameters and optimizer state may hold NaN in all their padding.
TEST(Padding, NeverCounts) {
  TrainingWorld world(tiny_config());
  for (const int stage : {0, 1, 2}) {
    for (const char* compute : {"fp32", "bf16"}) {
      TrainingRun run;
      run.ranks = 3;
      run.overrides = {"parallel.verify_every=1", "clip.mode=tensor_norm",
                       fmt::format("parallel.zero_stage={}", stage),
                       fmt::format("precision.compute={}", compute)};
      const TrainingResult clean = world.train(run);
      run.body = [](Rank& rank) {
        runtime::ModelState& state = rank.trainer.state();
        constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
        const auto poison = [&](int b, core::DType dtype, const void* raw, std::int64_t begin,
                                std::int64_t end) {
          std::vector<char> used(static_cast<std::size_t>(end - begin), 0);
          for (const runtime::Segment& s : state.layout().segments(b, begin, end)) {
            for (std::int64_t i = 0; i < s.count; ++i)
              used[static_cast<std::size_t>(s.bucket_begin - begin + i)] = 1;
          }
          auto* bytes = static_cast<std::byte*>(const_cast<void*>(raw));
          for (std::size_t i = 0; i < used.size(); ++i) {
            if (used[i] == 0)
              core::convert(core::DType::kF32, &kNaN, dtype, bytes + i * core::size_of(dtype), 1);
          }
        };
        for (int b = 0; b < state.layout().size(); ++b) {
          const core::TensorView whole = state.bucket_parameters(b);
          poison(b, whole.dtype(), whole.raw(), 0, whole.elements());
          for (int s = -1; s < state.state_tensors(); ++s) {
            const core::ConstTensorView owned = state.owned_values(b, s);
            const std::int64_t begin = state.owned_begin(b);
            poison(b, owned.dtype(), owned.raw(), begin, begin + owned.elements());
          }
        }
        rank.communicator.barrier("poisoned");
        rank.step_to_end();
      };
      const TrainingResult poisoned = world.train(run);
      ASSERT_FALSE(poisoned.error) << poisoned.message;
      EXPECT_EQ(poisoned.state, clean.state) << stage << compute;
      EXPECT_EQ(poisoned.ledger, clean.ledger) << stage << compute;
    }
  }
}

// Without clipping, the first moment after one step of Adam is (1 - beta1) times the gradient.
using Gradients = std::vector<std::vector<float>>;

Gradients first_moments(TrainingWorld& world, int ranks, int stage, const std::string& mode,
                        double threshold, runtime::StepDecision* decision) {
  Gradients moments;
  TrainingRun run;
  run.ranks = ranks;
  run.overrides = {"train.steps=1",       "schedule.warmup_steps=0",
                   "optimizer.name=adam", "optimizer.weight_decay=0",
                   "clip.mode=" + mode,   fmt::format("parallel.zero_stage={}", stage)};
  if (mode != "none") run.overrides.push_back(fmt::format("clip.threshold={}", threshold));
  run.body = [&](Rank& rank) {
    const runtime::StepDecision made = rank.trainer.step();
    for (models::ParameterId id = 0; id < rank.trainer.table().size(); ++id) {
      std::vector<float> values = rank.collect(id, 0);
      if (rank.number() == 0) moments.push_back(std::move(values));
    }
    if (rank.number() == 0) *decision = made;
  };
  const TrainingResult result = world.train(run);
  EXPECT_FALSE(result.error) << result.message;
  return moments;
}

double norm_of(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values)
    sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

TEST(Clipping, EveryModeAgainstAPlainReference) {
  TrainingWorld world(tiny_config());
  constexpr double kFactor = 1.0 - 0.9;
  runtime::StepDecision decision;
  const Gradients plain = first_moments(world, 1, 2, "none", 0.0, &decision);
  double squares = 0.0;
  for (const auto& tensor : plain)
    squares += std::pow(norm_of(tensor) / kFactor, 2);
  const double norm = std::sqrt(squares);
  EXPECT_NEAR(decision.grad_norm / norm, 1.0, 1e-6);
  ASSERT_GT(norm, 0.5);
  for (const int ranks : {1, 2, 3}) {
    for (const int stage : {0, 1, 2}) {
      for (const auto& [mode, threshold] : {std::pair<std::string, double>{"none", 0.0},
                                            {"global_norm", 0.25},
                                            {"global_norm", 100.0},
                                            {"tensor_norm", 0.05},
                                            {"value", 0.002}}) {
        SCOPED_TRACE(fmt::format("{} ranks, stage {}, {} {}", ranks, stage, mode, threshold));
        const Gradients clipped = first_moments(world, ranks, stage, mode, threshold, &decision);
        EXPECT_NEAR(decision.grad_norm / norm, 1.0, 1e-6);  // before clipping
        ASSERT_EQ(clipped.size(), plain.size());
        bool changed = false;
        for (std::size_t id = 0; id < plain.size(); ++id) {
          double coefficient = 1.0;
          if (mode == "global_norm") coefficient = std::min(1.0, threshold / (norm + 1e-6));
          if (mode == "tensor_norm")
            coefficient = std::min(1.0, threshold / (norm_of(plain[id]) / kFactor + 1e-6));
          for (std::size_t i = 0; i < plain[id].size(); ++i) {
            double expected = static_cast<double>(plain[id][i]) * coefficient;
            if (mode == "value")
              expected = std::clamp(expected, -threshold * kFactor, threshold * kFactor);
            changed = changed || std::abs(expected - plain[id][i]) > 1e-6;
            ASSERT_NEAR(clipped[id][i], expected, 1e-6 * std::abs(expected) + 1e-9);
          }
        }
        EXPECT_EQ(changed, mode != "none" && threshold < 100.0);
      }
    }
  }
}

TEST(ReduceType, EveryVariantTrains) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"train.steps=3"};
  const TrainingResult reference = world.train(run);
  run.ranks = 2;
  for (const char* sync : {"every_round", "boundary"}) {
    for (const char* compute : {"fp32", "bf16", "fp16"}) {
      for (const char* wire : {"fp32", "bf16", "fp16"}) {
        SCOPED_TRACE(fmt::format("{} {} {}", sync, compute, wire));
        TrainingRun other = run;
        for (const std::string& each : {fmt::format("parallel.grad_sync={}", sync),
                                        fmt::format("precision.compute={}", compute),
                                        fmt::format("parallel.reduce_type={}", wire),
                                        std::string("precision.loss_scale.mode=static"),
                                        std::string("precision.loss_scale.initial=64")})
          other.overrides.push_back(each);
        const TrainingResult result = world.train(other);
        ASSERT_EQ(result.decisions.size(), 3U) << result.message;
        for (std::size_t i = 0; i < 3; ++i) {
          EXPECT_TRUE(result.decisions[i].applied());
          EXPECT_NEAR(result.decisions[i].loss / reference.decisions[i].loss, 1.0, 0.01);
          EXPECT_NEAR(result.decisions[i].grad_norm / reference.decisions[i].grad_norm, 1.0, 0.05);
        }
      }
    }
  }
}

// More ranks than parameters, tensors of one element, ranks that own nothing.
TEST(UnluckyWorld, IsCorrect) {
  TrainingWorld world(tiny_config());
  TrainingRun run;
  run.overrides = {"model.family=llama",      "model.layers=1",         "model.heads=1",
                   "model.width=2",           "model.ffn_width=1",      "model.tie_embeddings=true",
                   "schedule.warmup_steps=1", "batch.global=128",       "train.steps=2",
                   "run.reproducible=ranks",  "parallel.verify_every=1"};
  const TrainingResult alone = world.train(run);
  ASSERT_FALSE(alone.error) << alone.message;
  for (const int ranks : {8, 128}) {
    for (const int stage : {0, 2}) {
      if (ranks == 128 && stage == 0) continue;
      TrainingRun many = run;
      many.ranks = ranks;
      many.overrides.push_back(fmt::format("parallel.zero_stage={}", stage));
      const TrainingResult found = world.train(many);
      ASSERT_FALSE(found.error) << found.message;
      EXPECT_EQ(found.state, alone.state) << ranks;
      EXPECT_EQ(found.ledger, alone.ledger) << ranks;
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
