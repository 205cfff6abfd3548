#include "runtime/step/device_decision.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "ops/transfer.h"
#include "runtime/step/tensor_clipping.h"
#include "tests/support/decision_device.h"

// The kernels of the step decision against the host's, bit for bit, on the stand-in and, where
// there is one, a GPU.
namespace lockstep::runtime {
namespace {

using ops::ExactSum;
using ops::NonFinite;
using ops::SumOfSquares;
using test::TestDevice;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Values in the memory of a device.
template <typename T>
class OnDevice {
 public:
  OnDevice(ops::OpContext& context, core::MemoryTracker& memory, std::vector<T> values)
      : context_(context),
        n_(values.size()),
        buffer_(memory, "test", std::max<std::size_t>(n_, 1) * sizeof(T), context.device_ref()) {
    context.upload(buffer_.data(), values.data(), n_ * sizeof(T));
  }

  T* data() const { return static_cast<T*>(buffer_.data()); }
  std::vector<T> fetch() const {
    std::vector<T> values(n_);
    context_.stream().to_host(values.data(), buffer_.data(), n_ * sizeof(T));
    return values;
  }

 private:
  ops::OpContext& context_;
  std::size_t n_;
  core::Buffer buffer_;
};

// In both orders of the stand-in's threads.
class DeviceDecisionTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { core::cuda::stand_in_settings().reverse = GetParam(); }
  void TearDown() override { core::cuda::stand_in_settings().reverse = false; }

  double uniform() { return std::uniform_real_distribution<double>(0.0, 1.0)(random_); }
  double magnitude() { return std::ldexp(0.5 + uniform(), static_cast<int>(random_() % 60) - 30); }

  StepNumbers numbers() {
    StepNumbers found;
    for (int i = 0; i < 5; ++i) {
      found.sum_of_squares.add(magnitude());
      found.loss.add(100.0 * uniform() - 5.0);
    }
    found.counted = static_cast<std::int64_t>(random_() % 1000);
    found.terms = found.counted;
    return found;
  }

  // A state with `healthy` steps behind it.
  NumericState state(const DecisionRules& rules, int healthy) {
    NumericState found;
    found.loss_scale = initial_loss_scale(rules.loss_scale);
    for (int i = 0; i < healthy; ++i) {
      found.spike_guard = after_healthy_step(rules.spike_factor, found.spike_guard,
                                             3.0 + 0.2 * uniform(), 1.0 + uniform());
      found.clip = clip_state_after(rules.clip, clip_state_for(rules.clip.mode, found.clip),
                                    1.0 + uniform());
      found.applied_steps += 1;
    }
    return found;
  }

  static DecisionRules rules(ClipMode mode) {
    DecisionRules found;
    found.clip = {mode, 0.7};
    found.clip.warmup_steps = 16;
    found.loss_scale.mode = LossScaleMode::kDynamic;
    found.loss_scale.initial = 1024.0;
    found.loss_scale.growth_interval = 3;
    found.loss_scale.hysteresis = 2;
    found.spike_factor = 10.0;
    found.vanishing_norm = 1e-7;
    found.loss_divisor = 1000.0;
    return found;
  }

  // Decides on the device and on the host, and compares all bits.
  void compare(const TestDevice& device, const DecisionRules& rules, const NumericState& before,
               const std::vector<StepNumbers>& ranks, const std::string& what) {
    core::MemoryTracker memory;
    ops::OpContext context(1, memory, device.ref, *device.bodies);
    const OnDevice<StepNumbers> gathered(context, memory, ranks);
    const OnDevice<NumericState> state(context, memory, {before});
    const OnDevice<DecidedStep> decided(context, memory, std::vector<DecidedStep>(1));
    const OnDevice<float> weight(context, memory, {0.0F});
    test::decision_bodies_of(device).decide(
        context, rules, gathered.data(), static_cast<int>(ranks.size()), before.applied_steps - 1,
        {state.data(), decided.data(), weight.data()});
    StepNumbers totals;
    for (const StepNumbers& rank : ranks)
      totals.merge(rank);
    StepDecision host;
    const NumericDecision expected =
        decide_numbers(rules, before, spike_limits(rules.spike_factor, before.spike_guard), totals);
    host.outcome = expected.outcome;
    host.loss = expected.loss;
    host.counted = expected.counted;
    host.grad_norm = expected.grad_norm;
    host.unscale = expected.unscale;
    host.coefficient = expected.coefficient;
    static_cast<NumericState&>(host.next) = expected.next;
    EXPECT_EQ(difference(decided.fetch().front(), host, expected.coefficient, 1), "")
        << device.name << ": " << what;
    EXPECT_TRUE(state.fetch().front() == expected.next) << device.name << ": " << what;
    EXPECT_EQ(weight.fetch().front(),
              static_cast<float>(expected.next.loss_scale.scale / rules.loss_divisor));
    outcomes_.push_back(expected.outcome);
  }

  // sums: of two ranks, `all` on the device.
  void clip_parameters_like_the_host(const TestDevice& device, ops::OpContext& context,
                                     core::MemoryTracker& memory, ClipMode mode, std::int64_t seen,
                                     const std::vector<ExactSum>& all,
                                     const OnDevice<ExactSum>& sums) {
    const std::size_t parameters = all.size() / 2;
    ClipConfig clip;
    clip.mode = mode;
    clip.threshold = 0.7;
    clip.warmup_steps = 2;
    StepDecision host;
    host.unscale = 0.037;
    host.coefficient = seen <= clip.warmup_steps ? 0.75 : 1.0;
    if (mode == ClipMode::kAdaGc) {
      host.next.clip = {mode, seen};
      for (std::size_t i = 0; i < parameters; ++i)
        host.next.clip_references.push_back(i % 7 == 0 ? 0.0 : magnitude());
    }
    DecidedStep step;
    step.numbers.unscale = host.unscale;
    step.numbers.coefficient = host.coefficient;
    step.numbers.next = host.next;
    for (const int apply : {0, 1}) {
      step.choice.apply = apply;
      const OnDevice<DecidedStep> decided(context, memory, {step});
      const OnDevice<float> factors(context, memory, std::vector<float>(parameters));
      const OnDevice<double> references(context, memory, host.next.clip_references);
      test::decision_bodies_of(device).clip_parameters(
          context, clip, sums.data(), 2, static_cast<std::int64_t>(parameters), decided.data(),
          mode == ClipMode::kAdaGc ? references.data() : nullptr, factors.data());
      if (apply == 0) {
        EXPECT_EQ(references.fetch(), host.next.clip_references) << device.name;
        EXPECT_EQ(factors.fetch(), std::vector<float>(parameters)) << device.name;
        continue;
      }
      std::vector<double> norms;
      for (std::size_t i = 0; i < parameters; ++i) {
        ExactSum total = all[i];
        total.merge(all[i + parameters]);
        norms.push_back(std::sqrt(total.value()) * host.unscale);
      }
      const std::vector<double> coefficients = clip_tensors(clip, norms, host);
      std::vector<float> expected;
      for (const double coefficient : coefficients)
        expected.push_back(static_cast<float>(coefficient * host.unscale));
      EXPECT_EQ(factors.fetch(), expected) << device.name;
      EXPECT_EQ(references.fetch(), host.next.clip_references) << device.name;
      EXPECT_EQ(decided.fetch().front().numbers.coefficient,
                *std::min_element(coefficients.begin(), coefficients.end()))
          << device.name;
    }
  }

  std::mt19937_64 random_{17};
  std::vector<StepOutcome> outcomes_;
};

INSTANTIATE_TEST_SUITE_P(Orders, DeviceDecisionTest, ::testing::Bool());

TEST_P(DeviceDecisionTest, DecidesTheBitsOfTheHost) {
  for (const TestDevice& device : test::devices_under_test()) {
    for (const ClipMode mode :
         {ClipMode::kGlobalNorm, ClipMode::kZClip, ClipMode::kAdaGc, ClipMode::kNone}) {
      for (const int ranks : {1, 2, 3, 7}) {
        for (const int healthy : {0, 15, 16, 17, 40, 64, 90}) {
          std::vector<StepNumbers> all;
          for (int r = 0; r < ranks; ++r)
            all.push_back(numbers());
          const DecisionRules r = rules(mode);
          compare(device, r, state(r, healthy), all,
                  fmt::format("{} ranks, {} healthy steps", ranks, healthy));
        }
      }
    }
  }
  EXPECT_NE(std::count(outcomes_.begin(), outcomes_.end(), StepOutcome::kApplied), 0);
  EXPECT_NE(std::count(outcomes_.begin(), outcomes_.end(), StepOutcome::kSpike), 0);
}

// Everything that keeps an update from going ahead, on any of three ranks.
TEST_P(DeviceDecisionTest, RefusesWhatTheHostRefuses) {
  const DecisionRules r = rules(ClipMode::kGlobalNorm);
  for (const TestDevice& device : test::devices_under_test()) {
    for (std::size_t rank = 0; rank < 3; ++rank) {
      const auto with = [&](auto&& change, StepOutcome outcome) {
        std::vector<StepNumbers> all = {numbers(), numbers(), numbers()};
        for (StepNumbers& each : all)
          each.counted = each.terms = 10;
        change(all[rank], all);
        for (const double scale : {1024.0, 1.0}) {
          NumericState before = state(r, 5);
          before.loss_scale.scale = scale;
          before.skips_in_a_row = 3;
          compare(device, r, before, all, fmt::format("rank {}", rank));
          EXPECT_EQ(outcomes_.back(), outcome);
        }
      };
      with([](StepNumbers& n, auto&) { n.nonfinite_gradients = 4; }, StepOutcome::kOverflow);
      with(
          [](StepNumbers& n, auto&) { n.sum_of_squares.add(kInfinity), n.nonfinite_gradients = 1; },
          StepOutcome::kOverflow);
      with([](StepNumbers& n, auto&) { n.sum_of_squares.add(kNaN), n.nonfinite_gradients = 1; },
           StepOutcome::kOverflow);
      with([](StepNumbers& n, auto&) { n.loss.add(kNaN), n.nonfinite_losses = 1; },
           StepOutcome::kDiverged);
      with(
          [](StepNumbers&, auto& all) {
            for (StepNumbers& each : all)
              each.counted = each.terms = 0;
          },
          StepOutcome::kNoTokens);
    }
  }
}

// From step to step the device goes on from its own state, as the host from its own.
TEST_P(DeviceDecisionTest, TheLossScaleMovesAsOnTheHost) {
  const DecisionRules r = rules(ClipMode::kGlobalNorm);
  for (const TestDevice& device : test::devices_under_test()) {
    NumericState before = state(r, 0);
    double least = before.loss_scale.scale;
    double most = least;
    for (int step = 0; step < 40; ++step) {
      StepNumbers each = numbers();
      each.counted = 10;
      each.terms = each.counted;
      each.nonfinite_gradients = step > 10 && step < 20 ? 1 : 0;
      compare(device, r, before, {each}, fmt::format("step {}", step));
      before =
          decide_numbers(r, before, spike_limits(r.spike_factor, before.spike_guard), each).next;
      least = std::min(least, before.loss_scale.scale);
      most = std::max(most, before.loss_scale.scale);
    }
    EXPECT_LT(least, 1024.0);
    EXPECT_GT(most, 1024.0);
  }
}

TEST_P(DeviceDecisionTest, AddsUpWhatTheOpsHaveLeft) {
  for (const TestDevice& device : test::devices_under_test()) {
    for (const std::size_t sums : {0U, 1U, 7U, 148U, 301U}) {
      for (const bool broken : {false, true}) {
        core::MemoryTracker memory;
        ops::OpContext context(1, memory, device.ref, *device.bodies);
        StepNumbers expected;
        std::vector<SumOfSquares> shard(sums);
        for (SumOfSquares& each : shard) {
          each.sum.add(magnitude());
          if (broken && random_() % 50 == 0) each.sum.add(kInfinity), each.nonfinite.inf = 3;
          expected.sum_of_squares.merge(each.sum);
          expected.nonfinite_gradients += each.nonfinite.total();
        }
        std::vector<ops::LossSums> losses(5);
        for (ops::LossSums& each : losses) {
          each = {broken && random_() % 3 == 0 ? kNaN : 40.0 * uniform(), 0.0,
                  static_cast<std::int64_t>(random_() % 100), 0,
                  static_cast<std::int64_t>(random_() % 100)};
          expected.loss.add(each.optimised);
          expected.counted += each.counted;
          expected.terms += each.terms;
          expected.nonfinite_losses += std::isfinite(each.optimised) ? 0 : 1;
        }
        std::vector<NonFinite> own(600);
        if (broken) own[599] = {2, 5}, expected.nonfinite_gradients += 7;
        const OnDevice<SumOfSquares> s(context, memory, shard);
        const OnDevice<ops::LossSums> l(context, memory, losses);
        const OnDevice<NonFinite> o(context, memory, own);
        const OnDevice<StepNumbers> out(context, memory, std::vector<StepNumbers>(1));
        test::decision_bodies_of(device).add_up_step(
            context, {s.data(), static_cast<std::int64_t>(sums), l.data(), 5, o.data(), 600},
            out.data());
        const StepNumbers found = out.fetch().front();
        EXPECT_TRUE(found.sum_of_squares == expected.sum_of_squares) << device.name << sums;
        EXPECT_TRUE(found.loss == expected.loss) << device.name << sums;
        EXPECT_EQ(found.counted, expected.counted);
        EXPECT_EQ(found.terms, expected.terms);
        EXPECT_EQ(found.nonfinite_losses, expected.nonfinite_losses);
        EXPECT_EQ(found.nonfinite_gradients, expected.nonfinite_gradients);
      }
    }
  }
}

constexpr std::int64_t kParameters = 300;

TEST_P(DeviceDecisionTest, ClipsEveryTensorAsTheHostDoes) {
  for (const TestDevice& device : test::devices_under_test()) {
    core::MemoryTracker memory;
    ops::OpContext context(1, memory, device.ref, *device.bodies);
    std::vector<SumOfSquares> shard(700);
    std::vector<std::int32_t> parameter_of(shard.size());
    std::vector<ExactSum> own(kParameters);
    for (std::size_t i = 0; i < shard.size(); ++i) {
      shard[i].sum.add(magnitude());
      parameter_of[i] = static_cast<std::int32_t>(random_() % (kParameters - 1));  // one has none
      own[static_cast<std::size_t>(parameter_of[i])].merge(shard[i].sum);
    }
    const OnDevice<SumOfSquares> s(context, memory, shard);
    const OnDevice<std::int32_t> p(context, memory, parameter_of);
    std::vector<ExactSum> all(2 * kParameters);
    for (ExactSum& each : all)
      each.add(magnitude());
    const OnDevice<ExactSum> sums(context, memory, all);
    const DecisionBodies& bodies = test::decision_bodies_of(device);
    bodies.add_up_parameters(context, s.data(), p.data(), 700, kParameters,
                             sums.data() + kParameters);
    std::copy(own.begin(), own.end(), all.begin() + kParameters);
    EXPECT_TRUE(sums.fetch() == all) << device.name;

    for (const ClipMode mode : {ClipMode::kTensorNorm, ClipMode::kAdaGc}) {
      for (const std::int64_t seen : {1, 2, 3, 9}) {  // warm-up: the first two
        SCOPED_TRACE(fmt::format("mode {}, {} seen", static_cast<int>(mode), seen));
        clip_parameters_like_the_host(device, context, memory, mode, seen, all, sums);
      }
    }
  }
}

// A difference in any one number is told.
TEST_P(DeviceDecisionTest, TellsWhatDiffers) {
  DecidedStep device;
  StepDecision host;
  device.numbers.next = host.next;
  device.choice = {1, 0, 0.0F};
  ASSERT_EQ(difference(device, host, 1.0, 0), "");
  const auto told = [&](auto&& change) {
    DecidedStep other = device;
    change(other);
    return difference(other, host, 1.0, 0);
  };
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.outcome = StepOutcome::kSpike; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.counted = 1; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.loss = std::nextafter(0.0, 1.0); }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.grad_norm = -0.0; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.unscale = 1.0; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.coefficient = 0.5; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.numbers.next.loss_scale.good = 1; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.choice.apply = 0; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.choice.rule = 1; }), "");
  EXPECT_NE(told([](DecidedStep& d) { d.choice.factor = 0.25F; }), "");
}

// Parameters are copied to the host only when the update does not go ahead.
TEST_P(DeviceDecisionTest, KeepsParametersOfAStepThatIsNotApplied) {
  for (const TestDevice& device : test::devices_under_test()) {
    core::MemoryTracker memory;
    ops::OpContext context(1, memory, device.ref, *device.bodies);
    std::vector<float> values(200064);
    for (float& each : values)
      each = static_cast<float>(uniform());
    const OnDevice<float> parameters(context, memory, values);
    const std::size_t bytes = values.size() * sizeof(float);
    const core::PinnedBuffer kept(device.ref, bytes);
    for (const int apply : {1, 0}) {
      std::memset(kept.data(), 0, bytes);
      DecidedStep step;
      step.choice.apply = apply;
      const OnDevice<DecidedStep> decided(context, memory, {step});
      test::decision_bodies_of(device).keep_unless_applied(context, decided.data(),
                                                           parameters.data(), kept.data(), bytes);
      context.wait();
      const std::vector<float> zeros(values.size());
      EXPECT_EQ(std::memcmp(kept.data(), apply != 0 ? zeros.data() : values.data(), bytes), 0)
          << device.name;
    }
  }
}

}  // namespace
}  // namespace lockstep::runtime
