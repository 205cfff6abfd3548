#include <array>
#include <span>
#include <utility>

#include "ops/op_bodies.h"
#include "ops/results.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 4: the optimizers.
namespace lockstep::ops {
namespace {

using core::DType;
using test::Harness;
using test::Operand;
using test::Side;
using test::TestDevice;

struct RuleCase {
  OptimizerKind kind;
  double momentum;
};
constexpr std::array<RuleCase, 8> kRuleCases = {{{OptimizerKind::kAdamW, 0},
                                                 {OptimizerKind::kAdam, 0},
                                                 {OptimizerKind::kSgd, 0},
                                                 {OptimizerKind::kSgd, 0.9},
                                                 {OptimizerKind::kRmsProp, 0},
                                                 {OptimizerKind::kRmsProp, 0.9},
                                                 {OptimizerKind::kLion, 0},
                                                 {OptimizerKind::kMuon, 0}}};

UpdateRule rule_of(const RuleCase& rule_case) {
  UpdateRule rule;
  rule.kind = rule_case.kind;
  rule.momentum = rule_case.momentum;
  rule.learning_rate = 1e-2;
  rule.weight_decay = 0.1;
  rule.t = 3;
  return rule;
}

// The rule of another step.
UpdateRule later(UpdateRule rule) {
  rule.learning_rate *= 0.5;
  rule.t += 4;
  return rule;
}

TEST(DeviceTable, OptimizerUpdates) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RuleCase& rule_case : kRuleCases)
      for (const std::int64_t n : {1, 64, 1003}) {
        const UpdateRule rule = rule_of(rule_case);
        const int states = state_tensors(rule.kind, rule.momentum);
        const bool cast = dtype != DType::kF32;
        Harness h(device);
        Operand& gradient = h.input(DType::kF32, 1, n, 0, 0.0, 3.0);
        Operand& master = h.input(DType::kF32, 1, n);
        Operand& state0 = h.input(DType::kF32, 1, n, 0, 1.0, 0.1);
        Operand& state1 = h.input(DType::kF32, 1, n, 0, 1.0, 0.1);
        Operand& factor = h.input(DType::kF32, 1, 1, 0, 0.5, 0.0);
        Operand& parameter = h.output(dtype, 1, n);
        h.run([&](OpContext& c, Side side) {
          const auto optional = [&](Operand& o, bool wanted) {
            return wanted ? o.vector(side) : core::TensorView{};
          };
          // On the device the factor is read from its memory.
          const auto* number = static_cast<const float*>(factor(side).raw());
          optimizer_update(c, rule, n != 64,
                           side == Side::kCpu ? UpdateFactor(0.5F) : UpdateFactor(number),
                           n == 1003 ? 1.0F : 0.0F, gradient.vector(side), master.vector(side),
                           optional(state0, states > 0), optional(state1, states > 1),
                           optional(parameter, cast));
        });
        const std::string what =
            "optimizer " + std::to_string(static_cast<int>(rule.kind)) + " " + std::to_string(n);
        h.expect_close(master, 2, what + " master");
        if (states > 0) h.expect_close(state0, 2, what + " state 0");
        if (states > 1) h.expect_close(state1, 2, what + " state 1");
        if (cast) h.expect_close(parameter, 1, what + " parameter");
      }
  });
}

// The tensors of a bucket. Two harnesses give two of them the same values.
struct Bucket {
  static constexpr std::int64_t kElements = 9003;

  Bucket(Harness& h, DType dtype)
      : gradient(h.input(DType::kF32, 1, kElements, 0, 0.0, 3.0)),
        master(h.input(DType::kF32, 1, kElements)),
        state0(h.input(DType::kF32, 1, kElements, 0, 1.0, 0.1)),
        state1(h.input(DType::kF32, 1, kElements, 0, 1.0, 0.1)),
        parameter(h.output(dtype, 1, kElements)),
        factors(h.input(DType::kF32, 1, 3)) {}

  // Runs that begin on 16 bytes and not, of less and of more than a block of threads takes.
  std::vector<UpdateRun> runs(Side side, int states) {
    static constexpr std::array<std::int64_t, 6> kBegins = {0, 64, 128, 2240, 7001, 9000};
    static constexpr std::array<std::int64_t, 6> kCounts = {64, 1, 2049, 4096, 1999, 3};
    std::vector<UpdateRun> list;
    for (std::size_t r = 0; r < kBegins.size(); ++r) {
      const auto piece = [&](Operand& operand) {
        return operand(side).slice_cols(kBegins[r], kBegins[r] + kCounts[r]);
      };
      UpdateRun run{piece(gradient), piece(master), {}, {}, {}};
      if (states > 0) run.state0 = piece(state0);
      if (states > 1) run.state1 = piece(state1);
      if (parameter(side).dtype() != DType::kF32) run.parameter = piece(parameter);
      run.decay = r % 2 == 0;
      run.factor = static_cast<std::int32_t>(r % 3);
      list.push_back(run);
    }
    return list;
  }

  Operand& gradient;
  Operand& master;
  Operand& state0;
  Operand& state1;
  Operand& parameter;
  Operand& factors;
};

enum class FactorKind { kNumber, kInMemory, kByRun };

void compare_batched_update(const TestDevice& device, DType dtype, const UpdateRule& rule,
                            FactorKind kind) {
  const int states = state_tensors(rule.kind, rule.momentum);
  Harness first(device);
  Harness second(device);
  Bucket batched(first, dtype);
  Bucket single(second, dtype);
  const auto factor_of = [&](Bucket& bucket, Side side, std::int32_t index) {
    const auto* numbers = static_cast<const float*>(bucket.factors(side).raw());
    if (kind == FactorKind::kNumber) return UpdateFactor(0.5F);
    return side == Side::kCpu ? UpdateFactor(numbers[index]) : UpdateFactor(numbers + index);
  };
  first.run([&](OpContext& c, Side side) {
    const std::span numbers(static_cast<const float*>(batched.factors(side).raw()), 3);
    const UpdatePlan plan(c, first.memory(), batched.runs(side, states));
    optimizer_update_runs(
        c, rule, plan,
        kind == FactorKind::kByRun ? RunFactors(numbers) : RunFactors(factor_of(batched, side, 0)),
        1.0F);
    if (side == Side::kDevice) c.stream().synchronize();  // before the plan goes
  });
  second.run([&](OpContext& c, Side side) {
    for (const UpdateRun& run : single.runs(side, states))
      optimizer_update(c, rule, run.decay,
                       factor_of(single, side, kind == FactorKind::kByRun ? run.factor : 0), 1.0F,
                       run.gradient, run.master, run.state0, run.state1, run.parameter);
  });
  const std::string what = "optimizer " + std::to_string(static_cast<int>(rule.kind)) + " in " +
                           std::string(core::name_of(dtype)) + ", factors " +
                           std::to_string(static_cast<int>(kind));
  const std::array<std::pair<Operand*, Operand*>, 4> tensors = {
      {{&batched.master, &single.master},
       {&batched.state0, &single.state0},
       {&batched.state1, &single.state1},
       {&batched.parameter, &single.parameter}}};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto [of_batched, of_single] = tensors[i];
    EXPECT_TRUE(of_batched->device() == of_single->device()) << device.name << ", " << what << i;
    EXPECT_TRUE(of_batched->cpu() == of_single->cpu()) << what << i;
  }
  first.expect_close(batched.master, 2, what);
}

TEST(DeviceTable, UpdatesOfManyRunsHaveTheBitsOfSingleOnes) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RuleCase& rule_case : kRuleCases)
      for (const FactorKind kind : {FactorKind::kNumber, FactorKind::kInMemory, FactorKind::kByRun})
        compare_batched_update(device, dtype, rule_of(rule_case), kind);
  });
}

// What a device decides on gives the bits of the same update asked for by the host; what it decides
// against changes nothing.
void compare_chosen_update(const TestDevice& device, DType dtype, const RuleCase& rule_case,
                           const UpdateChoice& choice, bool by_run) {
  const std::array<UpdateRule, kMostRules> rules = {rule_of(rule_case), later(rule_of(rule_case))};
  const int states = state_tensors(rule_case.kind, rule_case.momentum);
  Harness first(device);
  Harness second(device);
  Bucket chosen(first, dtype);
  Bucket asked(second, dtype);
  const auto numbers_of = [&](Bucket& bucket) {
    return std::span(static_cast<const float*>(bucket.factors(Side::kDevice).raw()),
                     by_run ? 3U : 0U);
  };
  first.run([&](OpContext& c, Side side) {
    if (side == Side::kCpu) return;
    Results<UpdateChoice> choices(c, 1, first.memory());
    c.stream().to_device(choices.at(), &choice, sizeof choice);
    const UpdatePlan plan(c, first.memory(), chosen.runs(side, states));
    optimizer_update_runs(c, rules, plan, choices.at(), numbers_of(chosen), 1.0F);
    c.stream().synchronize();  // before plan and choice go
  });
  second.run([&](OpContext& c, Side side) {
    if (side == Side::kCpu || choice.apply == 0) return;
    const UpdatePlan plan(c, second.memory(), asked.runs(side, states));
    const UpdateRule& rule = rules.at(static_cast<std::size_t>(choice.rule));
    optimizer_update_runs(c, rule, plan,
                          by_run ? RunFactors(numbers_of(asked)) : RunFactors(choice.factor), 1.0F);
    c.stream().synchronize();
  });
  const std::array<std::pair<Operand*, Operand*>, 4> tensors = {
      {{&chosen.master, &asked.master},
       {&chosen.state0, &asked.state0},
       {&chosen.state1, &asked.state1},
       {&chosen.parameter, &asked.parameter}}};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto [of_chosen, of_asked] = tensors[i];
    EXPECT_TRUE(of_chosen->device() == of_asked->device())
        << device.name << ", optimizer " << static_cast<int>(rule_case.kind) << " in "
        << core::name_of(dtype) << ", apply " << choice.apply << ", rule " << choice.rule
        << ", factors by run " << by_run << ", tensor " << i;
  }
  // The CPU's copy is as it was at first.
  EXPECT_EQ(chosen.master.device() == chosen.master.cpu(), choice.apply == 0) << device.name;
}

TEST(DeviceTable, UpdatesThatTheDeviceChoosesHaveTheBitsOfThoseAskedFor) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RuleCase& rule_case : kRuleCases)
      for (const bool by_run : {false, true})
        for (const UpdateChoice& choice :
             {UpdateChoice{1, 0, 0.5F}, UpdateChoice{1, 1, 0.25F}, UpdateChoice{0, 1, 0.5F}})
          compare_chosen_update(device, dtype, rule_case, choice, by_run);
  });
}

TEST(DeviceTable, AChoiceOfUpdatesIsChecked) {
  Harness h(test::devices_under_test().front());
  Bucket bucket(h, DType::kBF16);
  const UpdateRule rule = rule_of(kRuleCases[0]);
  UpdateRule other = rule;
  other.beta1 = 0.5;
  const std::array<UpdateRule, 3> rules = {rule, other, rule};
  const UpdateChoice choice;
  for (const Side side : {Side::kCpu, Side::kDevice}) {
    OpContext& c = h.context(side);
    const UpdatePlan plan(c, h.memory(), bucket.runs(side, 2));
    const auto update = [&](std::span<const UpdateRule> of, const UpdateChoice* from) {
      optimizer_update_runs(c, of, plan, from, {}, 0.0F);
    };
    EXPECT_THROW(update({}, &choice), core::Error);
    EXPECT_THROW(update(rules, &choice), core::Error);                      // more than kMostRules
    EXPECT_THROW(update(std::span(rules).first(2), &choice), core::Error);  // of different beta1
    EXPECT_THROW(update({&rule, 1}, nullptr), core::Error);
    // The CPU decides for itself.
    if (side == Side::kCpu) {
      EXPECT_THROW(update({&rule, 1}, &choice), core::Error);
    }
  }
}

TEST(DeviceTable, ABatchedUpdateIsOneLaunch) {
  if (test::only_gpu()) GTEST_SKIP() << "the stand-in, which records its calls, is left out";
  Harness h(test::devices_under_test().front());
  Bucket bucket(h, DType::kBF16);
  OpContext& context = h.context(Side::kDevice);
  const UpdatePlan plan(context, h.memory(), bucket.runs(Side::kDevice, 2));
  std::vector<std::string> calls;
  core::cuda::stand_in_settings().record = &calls;
  optimizer_update_runs(context, rule_of(kRuleCases[0]), plan, 1.0F, 0.0F);
  core::cuda::stand_in_settings().record = nullptr;
  EXPECT_EQ(calls, (std::vector<std::string>{"launch optimizer_update"}));
}

// ns_dtype of the table's dtypes: bf16 where that is one, else fp32.
TEST(DeviceTable, MuonsPasses) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    if (dtype == DType::kF16) return;
    for (const auto& [rows, cols] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 37}, {70, 24}}) {
      Harness h(device);
      const std::int64_t n = rows * cols;
      const std::int64_t side = std::min(rows, cols);
      Operand& gradient = h.input(DType::kF32, 1, n, 0, 0.0, 1.0);
      Operand& moment = h.input(DType::kF32, 1, n, 0, 0.0, 0.5);
      Operand& direction = h.output(DType::kF32, 1, n);
      Operand& iterate = h.output(dtype, 1, n);
      Operand& gram = h.output(dtype, 1, side * side);
      Operand& quintic = h.output(dtype, 1, side * side);
      Operand& product = h.output(DType::kF32, 1, std::max(n, side * side));
      h.run([&](OpContext& c, Side side_of) {
        const auto flat = [&](Operand& operand) {
          const core::TensorView view = operand(side_of);
          return core::TensorView(view.raw(), view.dtype(), {view.elements()}, view.device());
        };
        Results<SumOfSquares> squares(c, 1, h.memory());
        muon_momentum(c, {0.95, true}, nullptr, 0.5F, 0.4F, flat(gradient), flat(moment),
                      flat(direction));
        const core::TensorView matrix(direction(side_of).raw(), DType::kF32, {rows, cols},
                                      direction(side_of).device());
        newton_schulz(c, matrix, 5, dtype,
                      {flat(iterate), flat(gram), flat(quintic), flat(product), squares.at()});
        c.wait();
      });
      h.expect_close(moment, 2, "moment");
      h.expect_close(direction, dtype == DType::kF32 ? 200 : 60, "Newton-Schulz");
    }
  });
}

}  // namespace
}  // namespace lockstep::ops
