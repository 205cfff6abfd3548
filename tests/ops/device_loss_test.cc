#include <cstring>
#include <span>

#include "ops/first_nonfinite.h"
#include "ops/op_bodies.h"
#include "ops/results.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 3: the loss and the statistics of gradients.
namespace lockstep::ops {
namespace {

using core::DType;
using test::Harness;
using test::Operand;
using test::Side;
using test::TestDevice;

ops::LossSums loss_of(OpContext& context, core::MemoryTracker& memory, core::ConstTensorView logits,
                      std::span<const std::int32_t> targets, const ops::LossOptions& options,
                      double softcap, core::TensorView dlogits) {
  Results<ops::LossSums> sums(context, 1, memory);
  cross_entropy(context, logits, targets, options, softcap, dlogits, sums.at());
  sums.fetch();
  context.wait();
  return sums[0];
}

struct LossCase {
  std::int64_t rows, vocab, gap;
  double smoothing, z_loss, softcap;
};

void compare_loss(const TestDevice& device, DType dtype, const LossCase& s, bool in_place) {
  Harness h(device);
  ops::LossOptions options;
  options.label_smoothing = s.smoothing;
  options.z_loss = s.z_loss;
  options.gradient_weight = 3.0F;
  if (s.rows % 4 == 0 || s.rows == 9) options.sequence_rows = s.rows == 9 ? 3 : 2;
  std::vector<std::int32_t> targets;
  for (std::int64_t r = 0; r < s.rows; ++r)
    targets.push_back(r % 3 == 1 ? ops::kIgnored : static_cast<std::int32_t>(r * 7919 % s.vocab));
  targets.front() = static_cast<std::int32_t>(s.vocab - 1);
  Operand& logits = h.input(DType::kF32, s.rows, s.vocab, s.gap, 0.0, 4.0);
  Operand& separate = h.output(dtype, s.rows, s.vocab, s.gap);
  ops::LossSums sums[2];
  h.run([&](OpContext& c, Side side) {
    const core::TensorView from = logits(side);
    const std::int64_t elements_of_row =
        from.row_stride() * 4 / static_cast<std::int64_t>(core::size_of(dtype));
    const core::TensorView over(from.raw(), dtype, from.shape(), elements_of_row, from.device());
    sums[side == Side::kCpu ? 0 : 1] =
        loss_of(c, h.memory(), from, targets, options, s.softcap, in_place ? over : separate(side));
  });
  const std::string what = "cross_entropy " + std::string(core::name_of(dtype)) + " [" +
                           std::to_string(s.rows) + ", " + std::to_string(s.vocab) + "]" +
                           (in_place ? " in place" : "");
  EXPECT_EQ(sums[0].counted, sums[1].counted) << what;
  EXPECT_EQ(sums[0].terms, sums[1].terms) << what;
  const double bound = 2e-6 * std::max(1.0, std::abs(sums[0].optimised));
  EXPECT_NEAR(sums[0].optimised, sums[1].optimised, bound) << what;
  EXPECT_NEAR(sums[0].cross_entropy, sums[1].cross_entropy, bound) << what;
  if (!in_place) return h.expect_close(separate, 2, what);
  // Each row begins with its gradient; what follows is what is left of the logits.
  for (std::int64_t r = 0; r < s.rows; ++r) {
    const auto gradient = [&](test::HostTensor& tensor) {
      std::vector<double> values(static_cast<std::size_t>(s.vocab));
      core::convert(dtype, tensor.view().row<float>(r), DType::kF64, values.data(), values.size());
      return values;
    };
    test::expect_close(gradient(logits.device()), gradient(logits.cpu()),
                       2 * test::tolerance_of(dtype), what + " row " + std::to_string(r));
  }
}

TEST(DeviceTable, CrossEntropy) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    // 50257 fits into shared memory, 60001 does not.
    for (const LossCase& s :
         {LossCase{1, 1, 0, 0, 0, 0}, LossCase{7, 37, 3, 0.1, 1e-4, 0},
          LossCase{4, 264, 0, 0, 0, 5.0}, LossCase{9, 20000, 0, 0, 0, 0},
          LossCase{3, 50257, 0, 0.1, 0, 0}, LossCase{2, 60001, 3, 0, 1e-4, 30.0}})
      for (const bool in_place : {false, true})
        compare_loss(device, dtype, s, in_place);
  });
}

// A weight in the memory of the device gives the bits of the same one given directly.
TEST(DeviceTable, TheWeightOfALossMayLieOnTheDevice) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    // 60001 does not fit into shared memory.
    for (const std::int64_t vocab : {37, 20000, 60001}) {
      Harness h(device);
      Operand& logits = h.input(DType::kF32, 3, vocab, 0, 0.0, 4.0);
      Operand& weight = h.input(DType::kF32, {3.0, 1.7});
      Operand& direct = h.output(dtype, 3, vocab);
      Operand& read = h.output(dtype, 3, vocab);
      const std::vector<std::int32_t> targets = {5, ops::kIgnored, 0};
      h.run([&](OpContext& c, Side side) {
        ops::LossOptions options;
        options.label_smoothing = 0.1;
        options.z_loss = 1e-3;
        options.gradient_weight = 1.7F;
        loss_of(c, h.memory(), logits(side), targets, options, 0.0, direct(side));
        if (side == Side::kDevice) {
          options.gradient_weight = 0.0F;
          options.weight_on_device = static_cast<const float*>(weight(side).raw()) + 1;
        }
        loss_of(c, h.memory(), logits(side), targets, options, 0.0, read(side));
      });
      EXPECT_TRUE(read.device() == direct.device()) << device.name << ", " << vocab;
      h.expect_close(read, 2, "weight on the device, " + std::to_string(vocab));
    }
  });
}

TEST(DeviceTable, LossWithoutGradientAndCappedLogits) {
  for (const TestDevice& device : test::devices_under_test()) {
    Harness h(device);
    Operand& logits = h.input(DType::kF32, 5, 77, 3, 0.0, 10.0);
    const std::vector<std::int32_t> targets = {0, 76, ops::kIgnored, 3, 4};
    ops::LossSums sums[2];
    h.run([&](OpContext& c, Side side) {
      sums[side == Side::kCpu ? 0 : 1] = loss_of(c, h.memory(), logits(side), targets, {}, 0.0, {});
      softcap_logits(c, 15.0, logits(side));
    });
    EXPECT_NEAR(sums[0].optimised, sums[1].optimised, 1e-5) << device.name;
    h.expect_close(logits, 2, "softcap_logits");
  }
}

TEST(DeviceTable, MaskedAndPoisonedLogits) {
  for (const TestDevice& device : test::devices_under_test()) {
    const double inf = std::numeric_limits<double>::infinity();
    for (const double poison : {-inf, inf, std::numeric_limits<double>::quiet_NaN()}) {
      Harness h(device);
      Operand& logits = h.input(DType::kF32, 1, 40);
      logits.cpu().view().row<float>(0)[20] = static_cast<float>(poison);
      Operand& dlogits = h.output(DType::kF32, 1, 40);
      ops::LossSums sums[2];
      h.run([&](OpContext& c, Side side) {
        if (side == Side::kDevice)
          c.stream().to_device(logits(side).raw(), logits.cpu().view().raw(), 160);
        sums[side == Side::kCpu ? 0 : 1] = loss_of(
            c, h.memory(), logits(side), std::vector<std::int32_t>{3}, {}, 0.0, dlogits(side));
      });
      EXPECT_EQ(std::isfinite(sums[0].optimised), std::isfinite(sums[1].optimised)) << poison;
      EXPECT_EQ(std::isfinite(sums[1].optimised), poison == -inf) << device.name;
      if (poison == -inf) h.expect_close(dlogits, 2, "dlogits with a masked logit");
    }
  }
}

std::vector<SumOfSquares> squares_of(OpContext& context, core::MemoryTracker& memory,
                                     core::ConstTensorView x, std::span<const Range> ranges) {
  Results<SumOfSquares> sums(context, ranges.size(), memory);
  sums_of_squares(context, x, ranges, sums.at());
  sums.fetch();
  context.wait();
  return {&sums[0], &sums[0] + ranges.size()};
}

void expect_equal(const std::vector<SumOfSquares> (&sums)[2], const std::string& what) {
  for (std::size_t i = 0; i < sums[0].size(); ++i) {
    EXPECT_TRUE(sums[0][i].sum == sums[1][i].sum) << what << ", range " << i;
    EXPECT_EQ(sums[0][i].nonfinite.inf, sums[1][i].nonfinite.inf) << what << ", range " << i;
    EXPECT_EQ(sums[0][i].nonfinite.nan, sums[1][i].nonfinite.nan) << what << ", range " << i;
  }
}

TEST(DeviceTable, GradientStatistics) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const std::int64_t n : {1, 63, 64, 65, 5003, 40001}) {
      Harness h(device);
      Operand& x = h.input(dtype, 1, n, 0, 0.0, 100.0);
      const std::vector<Range> ranges = {{0, n}, {n / 3, n - n / 3}, {n / 2, 0}, {n - 1, 1}};
      std::vector<SumOfSquares> sums[2];
      NonFinite found[2];
      h.run([&](OpContext& c, Side side) {
        const std::size_t i = side == Side::kCpu ? 0 : 1;
        found[i] = count_nonfinite(c, x(side));
        sums[i] = squares_of(c, h.memory(), x.vector(side), ranges);
      });
      EXPECT_EQ(found[1].total(), 0) << device.name;
      expect_equal(sums, device.name + ", sums_of_squares, " + std::to_string(n));
      for (const SumOfSquares& sum : sums[1])
        EXPECT_EQ(sum.nonfinite.total(), 0) << device.name;
    }
  });
}

TEST(DeviceTable, NonFiniteElementsAreCounted) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    const std::int64_t rows = 9;
    const std::int64_t cols = 700;
    Harness h(device);
    Operand& x = h.input(dtype, rows, cols, 3);
    std::vector<double> values = x.cpu().values();
    for (std::size_t i = 0; i < values.size(); i += 101)
      values[i] = i % 2 == 0 ? -std::numeric_limits<double>::infinity() : std::nan("");
    x.cpu().set(values);
    NonFinite found[2];
    h.run([&](OpContext& c, Side side) {
      const core::TensorView view = x(side);
      if (side == Side::kDevice)
        c.stream().to_device(
            view.raw(), x.cpu().view().raw(),
            static_cast<std::size_t>(rows * view.row_stride()) * core::size_of(dtype));
      found[side == Side::kCpu ? 0 : 1] = count_nonfinite(c, view);
    });
    EXPECT_GT(found[0].inf, 0);
    EXPECT_EQ(found[0].inf, found[1].inf) << device.name;
    EXPECT_EQ(found[0].nan, found[1].nan) << device.name;
  });
}

// Squares from 0 and below the least fp32 up to beyond fp64's last bit of a sum, and no finite
// ones.
TEST(DeviceTable, SumsOfSquaresAreExactAtEveryMagnitude) {
  for (const TestDevice& device : test::devices_under_test()) {
    for (const double special : {0.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
      Harness h(device);
      Operand& x = h.input(DType::kF32, 1, 4000);
      std::vector<double> values(4000);
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] =
            std::ldexp(1.0 + static_cast<double>(i % 7) / 8.0, static_cast<int>(i % 260) - 140);
      values[1234] = special;
      x.cpu().set(values);
      x.device().set(values);
      const std::vector<Range> ranges = {{0, 4000}, {0, 1000}};
      std::vector<SumOfSquares> sums[2];
      h.run([&](OpContext& c, Side side) {
        if (side == Side::kDevice)
          c.stream().to_device(x(side).raw(), x.cpu().view().raw(), 4000 * sizeof(float));
        sums[side == Side::kCpu ? 0 : 1] = squares_of(c, h.memory(), x.vector(side), ranges);
      });
      expect_equal(sums, device.name + ", " + std::to_string(special));
      EXPECT_EQ(std::isfinite(sums[1][0].sum.value()), special == 0.0);
      EXPECT_EQ(sums[1][0].nonfinite.total(), special == 0.0 ? 0 : 1);
      EXPECT_TRUE(std::isfinite(sums[1][1].sum.value()));
    }
  }
}

// inf and NaN alone, together in a block of 64, in every lane of it, in a block that is cut short,
// and beside a range, where they do not count.
TEST(DeviceTable, SumsOfSquaresCountWhatIsNotFinite) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    constexpr std::int64_t kCount = 40003;
    const double inf = std::numeric_limits<double>::infinity();
    Harness h(device);
    Operand& x = h.input(dtype, 1, kCount);
    std::vector<double> values = x.cpu().values();
    values[100] = -inf;
    values[20001] = std::nan("");
    values[30000] = std::nan("");
    values[30003] = inf;
    std::fill_n(values.begin() + 35008, 64, inf);
    values[40002] = inf;
    x.cpu().set(values);
    const std::vector<Range> ranges = {
        {0, kCount}, {0, 100},     {101, 19900}, {20001, 1}, {30000, 3}, {30000, 64}, {35008, 64},
        {35000, 40}, {35009, 640}, {40000, 3},   {39999, 3}, {3, 39999}, {100, 0},    {64, 20000}};
    std::vector<SumOfSquares> sums[2];
    h.run([&](OpContext& c, Side side) {
      if (side == Side::kDevice)
        c.stream().to_device(x(side).raw(), x.cpu().view().raw(), kCount * core::size_of(dtype));
      sums[side == Side::kCpu ? 0 : 1] = squares_of(c, h.memory(), x.vector(side), ranges);
    });
    expect_equal(sums, device.name + " " + std::string(core::name_of(dtype)));
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      std::int64_t expected = 0;
      for (std::int64_t k = 0; k < ranges[i].count; ++k)
        expected += std::isfinite(values[static_cast<std::size_t>(ranges[i].begin + k)]) ? 0 : 1;
      EXPECT_EQ(sums[1][i].nonfinite.total(), expected) << device.name << ", range " << i;
      EXPECT_EQ(std::isfinite(sums[1][i].sum.value()), expected == 0) << "range " << i;
    }
  });
}

// A loss that is not finite asks which of some views is the first with inf or NaN.
std::int64_t first_of(OpContext& context, core::MemoryTracker& memory,
                      std::span<const core::ConstTensorView> views, double loss,
                      std::int64_t number_of_first) {
  Results<double> losses(context, 1, memory);
  Results<std::int64_t> first(context, 1, memory);
  if (context.device_ref().on_cpu()) {
    *losses.at() = loss;
  } else {
    context.stream().to_device(losses.at(), &loss, sizeof loss);
  }
  first_nonfinite(context, views, losses.at(), first.at(), number_of_first);
  first.fetch();
  context.wait();
  return first[0];
}

struct FirstCase {
  std::int64_t rows, cols;
  std::vector<std::pair<std::size_t, std::int64_t>> poisoned;  // view, element
  std::int64_t expected;
};

void compare_first(const TestDevice& device, DType dtype, std::size_t count, const FirstCase& s) {
  Harness h(device);
  std::vector<Operand*> operands;
  for (std::size_t i = 0; i < count; ++i)
    operands.push_back(&h.input(dtype, s.rows, s.cols));
  double bad = std::nan("");
  for (const auto& [view, element] : s.poisoned) {
    std::vector<double> values = operands[view]->cpu().values();
    values[static_cast<std::size_t>(element)] = bad;
    operands[view]->cpu().set(values);
    bad = -std::numeric_limits<double>::infinity();
  }
  h.run([&](OpContext& c, Side side) {
    std::vector<core::ConstTensorView> views;
    for (Operand* operand : operands) {
      const core::TensorView view = (*operand)(side);
      if (side == Side::kDevice)
        c.stream().to_device(view.raw(), operand->cpu().view().raw(), view.bytes());
      views.emplace_back(view);
    }
    const std::string what = device.name + (side == Side::kCpu ? ", cpu" : "") + ", " +
                             std::string(core::name_of(dtype)) + " [" + std::to_string(s.rows) +
                             ", " + std::to_string(s.cols) + "]";
    for (const double loss : {std::nan(""), std::numeric_limits<double>::infinity(),
                              -std::numeric_limits<double>::infinity()}) {
      EXPECT_EQ(first_of(c, h.memory(), views, loss, 0), s.expected) << what;
      EXPECT_EQ(first_of(c, h.memory(), views, loss, -1), s.expected - 1) << what;
    }
    EXPECT_EQ(first_of(c, h.memory(), views, 1e308, 3), -1) << what << ", finite loss";
  });
}

TEST(DeviceTable, TheFirstViewThatIsNotFinite) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    compare_first(device, dtype, 1, {1, 1, {}, 1});
    compare_first(device, dtype, 1, {1, 1, {{0, 0}}, 0});
    compare_first(device, dtype, 4, {3, 37, {{3, 110}, {1, 0}}, 1});
    compare_first(device, dtype, 3, {70, 1001, {{2, 70069}}, 2});  // of several blocks of threads
    compare_first(device, dtype, 3, {70, 1001, {}, 3});
    compare_first(device, dtype, 3, {70, 1001, {{0, 40000}, {2, 5}}, 0});
    // More than one launch takes.
    compare_first(device, dtype, 300, {1, 9, {{299, 8}, {140, 1}}, 140});
    compare_first(device, dtype, 300, {1, 9, {{299, 8}}, 299});
  });
}

TEST(DeviceTable, NonFiniteElementsAreCountedByRange) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    Harness h(device);
    constexpr std::int64_t kCount = 30000;
    Operand& x = h.input(dtype, 1, kCount);
    std::vector<double> values = x.cpu().values();
    for (std::size_t i = 17; i < values.size(); i += 997)
      values[i] = i % 2 == 0 ? std::numeric_limits<double>::infinity() : std::nan("");
    x.cpu().set(values);
    std::vector<Range> ranges;
    // More than one launch takes.
    for (std::int64_t begin = 0; begin < kCount; begin += 199)
      ranges.push_back({begin, std::min<std::int64_t>(199, kCount - begin)});
    std::vector<NonFinite> counts[2];
    h.run([&](OpContext& c, Side side) {
      if (side == Side::kDevice)
        c.stream().to_device(x(side).raw(), x.cpu().view().raw(), kCount * core::size_of(dtype));
      Results<NonFinite> results(c, ranges.size(), h.memory());
      count_nonfinite_ranges(c, x.vector(side), ranges, results.at());
      results.fetch();
      c.wait();
      counts[side == Side::kCpu ? 0 : 1].assign(&results[0], &results[0] + ranges.size());
    });
    std::int64_t total = 0;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_EQ(counts[0][i].inf, counts[1][i].inf) << device.name << " range " << i;
      EXPECT_EQ(counts[0][i].nan, counts[1][i].nan) << device.name << " range " << i;
      total += counts[1][i].total();
    }
    EXPECT_EQ(total, 31);
  });
}

TEST(DeviceTable, Casts) {
  test::for_each_device([](const TestDevice& device, DType from) {
    for (const DType to : test::device_dtypes()) {
      for (const std::int64_t n : {1, 8, 5003}) {
        Harness h(device);
        Operand& x = h.input(from, 1, n);
        Operand& y = h.output(to, 1, n);
        h.run([&](OpContext& c, Side side) { cast(c, x.vector(side), y.vector(side)); });
        h.expect_equal(y, "cast");
      }
    }
  });
}

}  // namespace
}  // namespace lockstep::ops
