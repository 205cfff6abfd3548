#include "ops/attention.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/memory.h"
#include "core/random.h"
#include "tests/ops/attention_reference.h"
#include "tests/support/gradient_check.h"

namespace lockstep::ops {
namespace {

using core::ConstTensorView;
using core::DType;
using core::TensorView;
using test::AttentionInputs;
using test::AttentionReference;
using test::AttentionResults;
using test::relative_difference;

AttentionSpec make_spec(std::int64_t sequences, std::int64_t length, std::int64_t heads,
                        std::int64_t kv_heads, std::int64_t width, bool causal,
                        double dropout = 0.0) {
  AttentionSpec spec;
  spec.sequences = sequences;
  spec.length = length;
  spec.heads = heads;
  spec.kv_heads = kv_heads;
  spec.head_width = width;
  spec.causal = causal;
  spec.scale = 1.0 / std::sqrt(static_cast<double>(width));
  spec.dropout.probability = dropout;
  spec.dropout.key = core::stream_key(11, "attention dropout");
  spec.dropout.first_sequence = 5;
  spec.dropout.sequence_rows = length;
  return spec;
}

std::string describe(const AttentionSpec& s) {
  return fmt::format("B {} T {} H {} K {} D {} causal {} dropout {}", s.sequences, s.length,
                     s.heads, s.kv_heads, s.head_width, s.causal, s.dropout.probability);
}

std::vector<double> random_values(std::int64_t n, std::uint64_t seed, float deviation = 1.0F) {
  std::vector<float> values(static_cast<std::size_t>(n));
  core::fill_normal(core::stream_key(seed, "attention test"), 0.0F, deviation, values.data(),
                    values.size());
  return {values.begin(), values.end()};
}

AttentionInputs random_inputs(const AttentionSpec& s, float deviation = 1.0F) {
  const std::int64_t rows = s.sequences * s.length;
  return {random_values(rows * s.heads * s.head_width, 1, deviation),
          random_values(rows * s.kv_heads * s.head_width, 2, deviation),
          random_values(rows * s.kv_heads * s.head_width, 3),
          random_values(rows * s.heads * s.head_width, 4)};
}

// Rounds the inputs to what T can hold, so that the reference sees the same numbers.
template <typename T>
AttentionInputs rounded(AttentionInputs inputs) {
  for (auto* tensor : {&inputs.q, &inputs.k, &inputs.v, &inputs.dout})
    for (double& value : *tensor)
      value = static_cast<double>(static_cast<core::AccumulateT<T>>(
          static_cast<T>(static_cast<core::AccumulateT<T>>(value))));
  return inputs;
}

// q, k and v beside one another in the rows of one buffer, as a fused projection writes them, and
// their gradients likewise.
template <typename T>
class FusedBuffer {
 public:
  explicit FusedBuffer(const AttentionSpec& s)
      : rows_(s.sequences * s.length),
        q_cols_(s.heads * s.head_width),
        kv_cols_(s.kv_heads * s.head_width),
        data_(static_cast<std::size_t>(rows_ * (q_cols_ + 2 * kv_cols_)),
              static_cast<T>(core::AccumulateT<T>(77))) {}

  TensorView q() { return all().slice_cols(0, q_cols_); }
  TensorView k() { return all().slice_cols(q_cols_, q_cols_ + kv_cols_); }
  TensorView v() { return all().slice_cols(q_cols_ + kv_cols_, q_cols_ + 2 * kv_cols_); }
  const std::vector<T>& data() const { return data_; }

 private:
  TensorView all() {
    return {data_.data(), core::DTypeOf<T>::value, {rows_, q_cols_ + 2 * kv_cols_}};
  }
  std::int64_t rows_;
  std::int64_t q_cols_;
  std::int64_t kv_cols_;
  std::vector<T> data_;
};

template <typename T>
void write_view(const std::vector<double>& from, TensorView to) {
  for (std::int64_t r = 0; r < to.rows(); ++r)
    for (std::int64_t c = 0; c < to.cols(); ++c)
      to.row<T>(r)[c] = static_cast<T>(
          static_cast<core::AccumulateT<T>>(from[static_cast<std::size_t>(r * to.cols() + c)]));
}

template <typename T>
std::vector<double> read_view(ConstTensorView from) {
  std::vector<double> values;
  for (std::int64_t r = 0; r < from.rows(); ++r)
    for (std::int64_t c = 0; c < from.cols(); ++c)
      values.push_back(static_cast<double>(static_cast<core::AccumulateT<T>>(from.row<T>(r)[c])));
  return values;
}

template <typename T>
class Runner {
 public:
  using A = core::AccumulateT<T>;

  Runner(const AttentionSpec& spec, const AttentionInputs& inputs, int threads = 2)
      : spec_(spec), context_(threads, memory_), inputs_(spec), gradients_(spec) {
    out_.resize(inputs.q.size());
    dout_.resize(inputs.q.size());
    lse_.resize(static_cast<std::size_t>(spec.sequences * spec.heads * spec.length));
    set(inputs);
    write_view<T>(inputs.dout, dout());
  }

  void set(const AttentionInputs& inputs) {
    write_view<T>(inputs.q, inputs_.q());
    write_view<T>(inputs.k, inputs_.k());
    write_view<T>(inputs.v, inputs_.v());
  }
  void forward() {
    attention_forward(context_, spec_, inputs_.q(), inputs_.k(), inputs_.v(), out(), lse());
  }
  void backward() {
    attention_backward(context_, spec_, dout(), inputs_.q(), inputs_.k(), inputs_.v(), out(), lse(),
                       gradients_.q(), gradients_.k(), gradients_.v());
  }
  AttentionResults results() {
    return {read_view<T>(out()), read_view<A>(lse()), read_view<T>(gradients_.q()),
            read_view<T>(gradients_.k()), read_view<T>(gradients_.v())};
  }

 private:
  TensorView heads(std::vector<T>& data) {
    return {data.data(),
            core::DTypeOf<T>::value,
            {spec_.sequences * spec_.length, spec_.heads * spec_.head_width}};
  }
  TensorView out() { return heads(out_); }
  TensorView dout() { return heads(dout_); }
  TensorView lse() {
    return {lse_.data(), core::DTypeOf<A>::value, {spec_.sequences * spec_.heads, spec_.length}};
  }

  AttentionSpec spec_;
  core::MemoryTracker memory_;
  OpContext context_;
  FusedBuffer<T> inputs_;
  FusedBuffer<T> gradients_;
  std::vector<T> out_;
  std::vector<T> dout_;
  std::vector<A> lse_;
};

template <typename T>
AttentionResults run(const AttentionSpec& spec, const AttentionInputs& inputs, int threads = 2) {
  Runner<T> runner(spec, inputs, threads);
  runner.forward();
  runner.backward();
  return runner.results();
}

double norm(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double value : x)
    sum += value * value;
  return std::sqrt(sum);
}

// |found - expected| / (|found| + |expected|), but not below the size of `floor`: with one key the
// gradients of queries and keys are zero, and only rounding is found.
double error_of(const std::vector<double>& found, const std::vector<double>& expected,
                const std::vector<double>& floor) {
  const double sum = norm(found) + norm(expected);
  return relative_difference(found, expected) * (sum / std::max(sum, norm(floor)));
}

void expect_near(const AttentionResults& found, const AttentionResults& expected,
                 double tolerance) {
  EXPECT_LT(relative_difference(found.out, expected.out), tolerance) << "out";
  EXPECT_LT(relative_difference(found.lse, expected.lse), tolerance) << "lse";
  EXPECT_LT(error_of(found.dq, expected.dq, expected.dv), tolerance) << "dq";
  EXPECT_LT(error_of(found.dk, expected.dk, expected.dv), tolerance) << "dk";
  EXPECT_LT(relative_difference(found.dv, expected.dv), tolerance) << "dv";
}

template <typename T>
void check_against_reference(const AttentionSpec& spec, double tolerance) {
  SCOPED_TRACE(describe(spec));
  const AttentionInputs inputs = rounded<T>(random_inputs(spec));
  expect_near(run<T>(spec, inputs), AttentionReference(spec, inputs).results(), tolerance);
}

template <typename F>
void for_each_shape(F&& f) {
  for (const bool causal : {true, false})
    for (const std::int64_t kv_heads : {4, 2, 1})
      for (const std::int64_t width : {8, 16, 20, 64})
        for (const std::int64_t length : {1, 2, 17, 64, 65, 130})
          f(make_spec(length > 65 ? 1 : 3, length, 4, kv_heads, width, causal));
}

TEST(Attention, DoubleEqualsTheFormula) {
  for_each_shape([](const AttentionSpec& s) { check_against_reference<double>(s, 1e-13); });
}

TEST(Attention, FloatEqualsTheFormulaWithinRounding) {
  for_each_shape([](const AttentionSpec& s) { check_against_reference<float>(s, 1e-6); });
}

TEST(Attention, SixteenBitEqualsTheFormulaWithinRounding) {
  for (const bool causal : {true, false}) {
    for (const std::int64_t length : {1, 2, 17, 65, 130}) {
      for (const std::int64_t width : {20, 64}) {
        check_against_reference<core::BFloat16>(make_spec(2, length, 4, 2, width, causal), 4e-3);
        check_against_reference<core::Float16>(make_spec(2, length, 4, 2, width, causal), 5e-4);
      }
    }
  }
}

TEST(Attention, DropoutFollowsTheElementIndex) {
  for (const bool causal : {true, false}) {
    for (const std::int64_t length : {1, 17, 65, 130}) {
      check_against_reference<double>(make_spec(2, length, 4, 2, 16, causal, 0.3), 1e-7);
      check_against_reference<float>(make_spec(2, length, 4, 2, 16, causal, 0.3), 1e-6);
      check_against_reference<core::BFloat16>(make_spec(2, length, 4, 2, 16, causal, 0.3), 4e-3);
    }
  }
}

// Windows that end within a block of scores, on its edge, in another block, and beyond the sequence.
TEST(Attention, WindowHidesWhatLiesBehindIt) {
  for (const std::int64_t window : {1, 3, 32, 63, 64, 65, 100}) {
    SCOPED_TRACE(fmt::format("window {}", window));
    for (const std::int64_t length : {65, 130}) {
      AttentionSpec spec = make_spec(1, length, 2, 1, 16, true);
      spec.window = window;
      check_against_reference<double>(spec, 1e-13);
      check_against_reference<core::BFloat16>(spec, 4e-3);
      spec = make_spec(1, length, 2, 1, 16, true, 0.3);
      spec.window = window;
      check_against_reference<float>(spec, 1e-6);
    }
  }
}

TEST(Attention, WindowOfTheWholeSequenceChangesNoBit) {
  const AttentionSpec without = make_spec(2, 130, 4, 2, 16, true);
  AttentionSpec with = without;
  with.window = 130;
  const AttentionInputs inputs = random_inputs(without);
  EXPECT_EQ(run<float>(with, inputs).out, run<float>(without, inputs).out);
  with.window = 129;
  EXPECT_NE(run<float>(with, inputs).out, run<float>(without, inputs).out);
}

TEST(Attention, DropoutChangesTheResult) {
  const AttentionSpec with = make_spec(1, 33, 2, 2, 16, true, 0.3);
  const AttentionSpec without = make_spec(1, 33, 2, 2, 16, true);
  const AttentionInputs inputs = random_inputs(with);
  EXPECT_GT(relative_difference(run<float>(with, inputs).out, run<float>(without, inputs).out),
            0.05);
}

// Central differences of sum(dout * out) in every element of q, k and v.
void check_gradients(const AttentionSpec& spec) {
  SCOPED_TRACE(describe(spec));
  AttentionInputs inputs = random_inputs(spec);
  const AttentionResults analytic = run<double>(spec, inputs);
  Runner<double> runner(spec, inputs, 1);
  const auto loss = [&] {
    runner.set(inputs);
    runner.forward();
    return test::weighted_sum(inputs.dout, runner.results().out);
  };
  EXPECT_LT(test::gradient_error(loss, inputs.q, analytic.dq), 1e-8) << "dq";
  EXPECT_LT(test::gradient_error(loss, inputs.k, analytic.dk), 1e-8) << "dk";
  EXPECT_LT(test::gradient_error(loss, inputs.v, analytic.dv), 1e-8) << "dv";
}

TEST(Attention, BackwardEqualsCentralDifferences) {
  for (const bool causal : {true, false}) {
    check_gradients(make_spec(1, 17, 2, 2, 8, causal));
    check_gradients(make_spec(1, 17, 4, 2, 8, causal));
    check_gradients(make_spec(2, 5, 4, 1, 20, causal));
    check_gradients(make_spec(1, 17, 2, 1, 8, causal, 0.4));
    check_gradients(make_spec(1, 66, 1, 1, 4, causal));
  }
  AttentionSpec windowed = make_spec(1, 66, 2, 1, 4, true, 0.2);
  windowed.window = 5;
  check_gradients(windowed);
}

TEST(Attention, HugeScoresDoNotOverflow) {
  AttentionSpec spec = make_spec(1, 70, 2, 2, 16, true);
  spec.scale = 1.0;
  const AttentionInputs inputs = rounded<float>(random_inputs(spec, 60.0F));  // scores to 1e4
  const AttentionResults expected = AttentionReference(spec, inputs).results();
  EXPECT_GT(*std::max_element(expected.lse.begin(), expected.lse.end()), 1e4);
  expect_near(run<float>(spec, inputs), expected, 1e-3);
}

template <typename T>
void expect_same_bits_at_any_threads(const AttentionSpec& spec) {
  SCOPED_TRACE(describe(spec));
  const AttentionInputs inputs = rounded<T>(random_inputs(spec));
  const AttentionResults one = run<T>(spec, inputs, 1);
  for (const int threads : {2, 3}) {
    const AttentionResults many = run<T>(spec, inputs, threads);
    EXPECT_EQ(one.out, many.out);
    EXPECT_EQ(one.lse, many.lse);
    EXPECT_EQ(one.dq, many.dq);
    EXPECT_EQ(one.dk, many.dk);
    EXPECT_EQ(one.dv, many.dv);
  }
}

TEST(Attention, BitsDoNotDependOnThreads) {
  expect_same_bits_at_any_threads<float>(make_spec(3, 130, 4, 2, 20, true, 0.1));
  expect_same_bits_at_any_threads<core::BFloat16>(make_spec(3, 130, 4, 2, 64, true));
  expect_same_bits_at_any_threads<double>(make_spec(2, 65, 3, 1, 8, false));
}

// A sequence gives the same bits alone and among others.
TEST(Attention, BitsDoNotDependOnTheMicroBatch) {
  const AttentionSpec pair = make_spec(2, 65, 2, 1, 16, true, 0.2);
  const AttentionInputs both = rounded<float>(random_inputs(pair));
  AttentionSpec single = pair;
  single.sequences = 1;
  single.dropout.first_sequence += 1;
  const auto second_half = [](const std::vector<double>& x) {
    return std::vector<double>(x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  };
  const AttentionInputs alone{second_half(both.q), second_half(both.k), second_half(both.v),
                              second_half(both.dout)};
  const AttentionResults expected = run<float>(pair, both);
  const AttentionResults found = run<float>(single, alone);
  EXPECT_EQ(found.out, second_half(expected.out));
  EXPECT_EQ(found.dq, second_half(expected.dq));
  EXPECT_EQ(found.dk, second_half(expected.dk));
  EXPECT_EQ(found.dv, second_half(expected.dv));
}

TEST(Attention, NonFiniteInputsReachTheOutput) {
  const AttentionSpec spec = make_spec(1, 130, 1, 1, 16, true);
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (auto tensor : {&AttentionInputs::q, &AttentionInputs::k, &AttentionInputs::v}) {
      AttentionInputs inputs = random_inputs(spec);
      (inputs.*tensor)[70 * 16 + 3] = bad;  // position 70 sees itself
      const AttentionResults found = run<float>(spec, inputs);
      bool finite = true;
      for (std::size_t d = 0; d < 16; ++d)
        finite = finite && std::isfinite(found.out[70 * 16 + d]);
      // An infinite key may weigh nothing (score -inf); its gradient shows it all the same.
      EXPECT_FALSE(finite && (std::isnan(bad) || std::isfinite(found.dq[70 * 16 + 3])));
      for (std::size_t i = 0; i < 64 * 16; ++i)
        ASSERT_TRUE(std::isfinite(found.out[i])) << "an earlier position saw a later one";
    }
  }
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const AttentionSpec spec = make_spec(1, 8, 3, 2, 8, true);  // 2 does not divide 3
  EXPECT_THROW(run<float>(spec, random_inputs(spec)), core::Error);
  AttentionSpec both_ways = make_spec(1, 8, 2, 2, 8, false);
  both_ways.window = 3;
  EXPECT_THROW(run<float>(both_ways, random_inputs(both_ways)), core::Error);
  const AttentionSpec good = make_spec(1, 8, 2, 2, 8, true);
  core::MemoryTracker memory;
  OpContext context(1, memory);
  std::vector<float> x(8 * 16);
  std::vector<float> lse(16);
  const TensorView view(x.data(), DType::kF32, {8, 16});
  const TensorView lse_view(lse.data(), DType::kF32, {2, 8});
  EXPECT_THROW(attention_forward(context, good, view.slice_cols(0, 8), view, view, view, lse_view),
               core::Error);
  const TensorView elsewhere(x.data(), DType::kF32, {8, 16}, {core::DeviceType::kCuda, 0});
  EXPECT_THROW(attention_forward(context, good, elsewhere, view, view, view, lse_view),
               core::Error);
}

}  // namespace
}  // namespace lockstep::ops
