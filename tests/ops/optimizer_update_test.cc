#include "ops/optimizer_update.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <span>

#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

constexpr std::int64_t kElements = 771;

// The formulas of PyTorch's optimizers, in double.
struct Reference {
  UpdateRule rule;
  double decay;  // weight_decay, or 0 for exempt elements
  std::vector<double> p, s0, s1;

  void step(std::size_t i, double g) {
    const double lr = rule.learning_rate;
    const auto t = static_cast<double>(rule.t);
    switch (rule.kind) {
      case OptimizerKind::kAdamW:
      case OptimizerKind::kAdam: {
        if (rule.kind == OptimizerKind::kAdamW)
          p[i] *= 1.0 - lr * decay;
        else
          g += decay * p[i];
        s0[i] = rule.beta1 * s0[i] + (1.0 - rule.beta1) * g;
        s1[i] = rule.beta2 * s1[i] + (1.0 - rule.beta2) * g * g;
        const double m = s0[i] / (1.0 - std::pow(rule.beta1, t));
        const double v = s1[i] / (1.0 - std::pow(rule.beta2, t));
        p[i] -= lr * m / (std::sqrt(v) + rule.eps);
        return;
      }
      case OptimizerKind::kSgd:
        g += decay * p[i];
        if (rule.momentum > 0.0) g = s0[i] = rule.t == 1 ? g : rule.momentum * s0[i] + g;
        p[i] -= lr * g;
        return;
      case OptimizerKind::kRmsProp:
        g += decay * p[i];
        s0[i] = rule.alpha * s0[i] + (1.0 - rule.alpha) * g * g;
        g /= std::sqrt(s0[i]) + rule.eps;
        if (rule.momentum > 0.0) g = s1[i] = rule.momentum * s1[i] + g;
        p[i] -= lr * g;
        return;
      case OptimizerKind::kLion: {
        p[i] *= 1.0 - lr * decay;
        const double u = rule.beta1 * s0[i] + (1.0 - rule.beta1) * g;
        p[i] -= lr * (u > 0.0 ? 1.0 : (u < 0.0 ? -1.0 : 0.0));
        s0[i] = rule.beta2 * s0[i] + (1.0 - rule.beta2) * g;
        return;
      }
      case OptimizerKind::kMuon:
        p[i] = p[i] * (1.0 - lr * decay) - lr * g;
        return;
    }
  }
};

struct Shard {
  explicit Shard(std::int64_t n = kElements, DType dtype = DType::kBF16)
      : gradient(DType::kF32, 1, n),
        master(DType::kF32, 1, n),
        state0(DType::kF32, 1, n),
        state1(DType::kF32, 1, n),
        parameter(dtype, 1, n) {
    const std::vector<double> zeros(static_cast<std::size_t>(n), 0.0);
    master.randomize(1);
    state0.set(zeros);
    state1.set(zeros);
  }

  void update(const UpdateRule& rule, bool decay, float factor, float clamp, int threads = 2) {
    core::MemoryTracker memory;
    OpContext context(threads, memory);
    const int states = state_tensors(rule.kind, rule.momentum);
    optimizer_update(context, rule, decay, factor, clamp, gradient.vector_view(),
                     master.vector_view(), states > 0 ? state0.vector_view() : core::TensorView(),
                     states > 1 ? state1.vector_view() : core::TensorView(),
                     parameter.vector_view());
  }

  HostTensor gradient, master, state0, state1, parameter;
};

std::vector<UpdateRule> all_rules() {
  std::vector<UpdateRule> rules;
  for (const OptimizerKind kind :
       {OptimizerKind::kAdamW, OptimizerKind::kAdam, OptimizerKind::kSgd, OptimizerKind::kRmsProp,
        OptimizerKind::kLion, OptimizerKind::kMuon})
    for (const double momentum : {0.0, 0.9}) {
      UpdateRule rule;
      rule.kind = kind;
      rule.learning_rate = 0.01;
      rule.weight_decay = 0.1;
      rule.momentum = momentum;
      rules.push_back(rule);
    }
  return rules;
}

// Several steps against the reference.
void follow(UpdateRule rule, bool decay, float factor, float clamp, DType dtype) {
  Shard shard(kElements, dtype);
  const std::vector<double> zeros(static_cast<std::size_t>(kElements), 0.0);
  Reference reference{rule, decay ? rule.weight_decay : 0.0, shard.master.values(), zeros, zeros};
  for (rule.t = 1; rule.t <= 5; ++rule.t) {
    shard.gradient.randomize(10 + static_cast<std::uint64_t>(rule.t), 0.2, 4.0);
    shard.update(rule, decay, factor, clamp);
    reference.rule.t = rule.t;
    const std::vector<double> gradient = shard.gradient.values();
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      double g = gradient[i] * static_cast<double>(factor);
      if (clamp > 0.0F) g = std::clamp(g, -static_cast<double>(clamp), static_cast<double>(clamp));
      reference.step(i, g);
    }
  }
  const std::string what = "rule " + std::to_string(static_cast<int>(rule.kind)) + " momentum " +
                           std::to_string(rule.momentum);
  test::expect_close(shard.master.values(), reference.p, 2e-6, what);
  test::expect_close(shard.parameter.values(), shard.master.values(), test::tolerance_of(dtype),
                     what + ", parameter");
}

TEST(OptimizerUpdate, FollowsPyTorchsFormulas) {
  for (const UpdateRule& rule : all_rules())
    for (const DType dtype : test::floating_dtypes())
      follow(rule, true, 1.0F, 0.0F, dtype);
}

TEST(OptimizerUpdate, ExemptElementsDoNotDecay) {
  for (const UpdateRule& rule : all_rules())
    follow(rule, false, 1.0F, 0.0F, DType::kBF16);
}

TEST(OptimizerUpdate, FactorComesBeforeClamp) {
  for (const UpdateRule& rule : all_rules())
    follow(rule, true, 0.25F, 0.5F, DType::kF16);
}

TEST(OptimizerUpdate, DecayAndClampMatter) {
  UpdateRule rule;
  rule.learning_rate = 0.1;
  rule.weight_decay = 0.5;
  Shard decayed, exempt;
  decayed.gradient.randomize(3);
  exempt.gradient.randomize(3);
  decayed.update(rule, true, 1.0F, 0.0F);
  exempt.update(rule, false, 1.0F, 0.0F);
  EXPECT_FALSE(decayed.master == exempt.master);
  rule.kind = OptimizerKind::kSgd;
  Shard clamped, free;
  clamped.gradient.randomize(3);
  free.gradient.randomize(3);
  clamped.update(rule, true, 1.0F, 0.1F);
  free.update(rule, true, 1.0F, 0.0F);
  EXPECT_FALSE(clamped.master == free.master);
}

TEST(OptimizerUpdate, StateTensors) {
  EXPECT_EQ(state_tensors(OptimizerKind::kAdamW, 0.0), 2);
  EXPECT_EQ(state_tensors(OptimizerKind::kAdam, 0.9), 2);
  EXPECT_EQ(state_tensors(OptimizerKind::kSgd, 0.0), 0);
  EXPECT_EQ(state_tensors(OptimizerKind::kSgd, 0.9), 1);
  EXPECT_EQ(state_tensors(OptimizerKind::kRmsProp, 0.0), 1);
  EXPECT_EQ(state_tensors(OptimizerKind::kRmsProp, 0.9), 2);
  EXPECT_EQ(state_tensors(OptimizerKind::kLion, 0.0), 1);
}

TEST(OptimizerUpdate, MasterMayBeTheParameter) {
  UpdateRule rule;
  rule.learning_rate = 0.01;
  Shard cast(kElements, DType::kF32), plain;
  cast.gradient.randomize(3);
  plain.gradient.randomize(3);
  cast.update(rule, true, 1.0F, 0.0F);
  core::MemoryTracker memory;
  OpContext context(1, memory);
  optimizer_update(context, rule, true, 1.0F, 0.0F, plain.gradient.vector_view(),
                   plain.master.vector_view(), plain.state0.vector_view(),
                   plain.state1.vector_view(), {});
  EXPECT_EQ(plain.master, cast.master);
  EXPECT_EQ(cast.parameter, cast.master);
}

// The bits of an element depend neither on threads nor on where its shard begins: also not on
// whether it falls into the vectorised part of a loop or behind it.
TEST(OptimizerUpdate, BitsDoNotDependOnThreadsOrPosition) {
  constexpr std::int64_t kMany = 40003;
  for (UpdateRule rule : all_rules()) {
    rule.t = 3;
    Shard whole(kMany);
    whole.gradient.randomize(3);
    Shard pieces = whole;
    Shard three = whole;
    whole.update(rule, true, 0.7F, 1.5F, 1);
    three.update(rule, true, 0.7F, 1.5F, 3);
    EXPECT_EQ(three.master, whole.master);
    EXPECT_EQ(three.parameter, whole.parameter);
    core::MemoryTracker memory;
    OpContext context(1, memory);
    const int states = state_tensors(rule.kind, rule.momentum);
    for (std::int64_t begin = 0, width = 1; begin < kMany; begin += width, width = width % 97 + 1) {
      const std::int64_t end = std::min(kMany, begin + width);
      const auto piece = [&](HostTensor& tensor) { return tensor.view().slice_cols(begin, end); };
      optimizer_update(context, rule, true, 0.7F, 1.5F, piece(pieces.gradient),
                       piece(pieces.master), states > 0 ? piece(pieces.state0) : core::TensorView(),
                       states > 1 ? piece(pieces.state1) : core::TensorView(),
                       piece(pieces.parameter));
    }
    EXPECT_EQ(pieces.master, whole.master) << static_cast<int>(rule.kind) << rule.momentum;
    EXPECT_EQ(pieces.state0, whole.state0);
    EXPECT_EQ(pieces.state1, whole.state1);
    EXPECT_EQ(pieces.parameter, whole.parameter);
  }
}

TEST(OptimizerUpdate, NaNPassesTheClamp) {
  UpdateRule rule;
  Shard shard(64);
  rule.learning_rate = 0.1;
  shard.gradient.set(std::vector<double>(64, std::nan("")));
  shard.update(rule, true, 1.0F, 1.0F);
  for (const double p : shard.master.values())
    EXPECT_TRUE(std::isnan(p));
}

// Runs of one shard, of which every second decays, and the factors that they take.
struct Runs {
  static constexpr std::array<std::int64_t, 7> kBorders = {0, 64, 65, 128, 20000, 20003, 40003};
  std::vector<float> factors = {0.7F, 3.0F, 0.1F};

  Runs(Shard& shard, int states) {
    for (std::size_t r = 0; r + 1 < kBorders.size(); ++r) {
      const auto piece = [&](HostTensor& tensor) {
        return tensor.vector_view()
            .reshaped({1, kBorders.back()})
            .slice_cols(kBorders[r], kBorders[r + 1]);
      };
      UpdateRun run{piece(shard.gradient), piece(shard.master), {}, {}, piece(shard.parameter)};
      if (states > 0) run.state0 = piece(shard.state0);
      if (states > 1) run.state1 = piece(shard.state1);
      run.decay = r % 2 == 0;
      run.factor = static_cast<std::int32_t>(2 - r % 3);
      list.push_back(run);
    }
  }

  std::vector<UpdateRun> list;
};

TEST(OptimizerUpdate, ManyRunsHaveTheBitsOfSingleUpdates) {
  for (UpdateRule rule : all_rules())
    for (const bool by_run : {false, true}) {
      rule.t = 3;
      const int states = state_tensors(rule.kind, rule.momentum);
      Shard many(Runs::kBorders.back());
      many.gradient.randomize(3);
      Shard single = many;
      core::MemoryTracker memory;
      OpContext context(3, memory);
      Runs runs(many, states);
      const UpdatePlan plan(context, memory, runs.list);
      EXPECT_EQ(plan.factors(), 3);
      EXPECT_EQ(plan.states(), states);
      optimizer_update_runs(
          context, rule, plan,
          by_run ? RunFactors(std::span<const float>(runs.factors)) : RunFactors(0.5F), 1.5F);
      for (const UpdateRun& run : Runs(single, states).list) {
        const float factor = by_run ? runs.factors[static_cast<std::size_t>(run.factor)] : 0.5F;
        optimizer_update(context, rule, run.decay, factor, 1.5F, run.gradient, run.master,
                         run.state0, run.state1, run.parameter);
      }
      EXPECT_EQ(many.master, single.master) << static_cast<int>(rule.kind) << rule.momentum;
      EXPECT_EQ(many.state0, single.state0);
      EXPECT_EQ(many.state1, single.state1);
      EXPECT_EQ(many.parameter, single.parameter);
    }
}

TEST(OptimizerUpdate, PlansAreOfOneKind) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  Shard shard(Runs::kBorders.back());
  const Runs runs(shard, 2);
  const auto spoiled = [&](const std::function<void(UpdateRun&)>& spoil) {
    std::vector<UpdateRun> list = runs.list;
    spoil(list.back());
    EXPECT_THROW(UpdatePlan(context, memory, list), core::Error);
  };
  spoiled([](UpdateRun& run) { run.state1 = {}; });
  spoiled([](UpdateRun& run) { run.parameter = {}; });
  spoiled([](UpdateRun& run) { run.master = run.master.slice_cols(1, run.master.cols()); });
  spoiled([](UpdateRun& run) { run.factor = -1; });

  const UpdatePlan plan(context, memory, runs.list);
  UpdateRule rule;
  const std::vector<float> two = {1.0F, 2.0F};
  EXPECT_THROW(optimizer_update_runs(context, rule, plan, RunFactors(std::span(two)), 0.0F),
               core::Error);
  rule.kind = OptimizerKind::kLion;
  EXPECT_THROW(optimizer_update_runs(context, rule, plan, 1.0F, 0.0F), core::Error);
  optimizer_update_runs(context, rule, UpdatePlan(context, memory, {}), 1.0F, 0.0F);
}

}  // namespace
}  // namespace lockstep::ops
