#include <cmath>
#include <string>
#include <vector>

#include "ops/op_bodies.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 4: products together with what is beside them,
// and products with a vocabulary.
namespace lockstep::ops {
namespace {

using core::DType;
using core::TensorView;
using test::Harness;
using test::Operand;
using test::Side;
using test::TestDevice;

struct Sizes {
  std::int64_t tokens, in, out, gap;
};

// One token, widths that are no multiple of 8, rows off 16 bytes; multiples of 8 are what a library
// takes in one call.
const std::vector<Sizes>& sizes_on(const TestDevice& device) {
  static const std::vector<Sizes> small = {
      {1, 8, 16, 0}, {1, 5, 3, 0}, {33, 45, 70, 3}, {40, 64, 96, 8}};
  static const std::vector<Sizes> large = {
      {1, 8, 16, 0},     {1, 5, 3, 0},        {33, 45, 70, 3},     {40, 64, 96, 8},
      {1, 768, 3072, 0}, {200, 768, 3072, 0}, {500, 1024, 771, 0}, {1024, 768, 2304, 0}};
  return device.stand_in || test::only_small() ? small : large;
}

double about_one(std::int64_t terms) {
  return 1.0 / std::sqrt(static_cast<double>(terms));
}

std::string text_of(const char* what, DType dtype, const Sizes& s) {
  return std::string(what) + " " + std::string(core::name_of(dtype)) + ", " +
         std::to_string(s.tokens) + " tokens, " + std::to_string(s.in) + " to " +
         std::to_string(s.out) + ", gap " + std::to_string(s.gap);
}

constexpr ActivationFunction kFunctions[] = {ActivationFunction::kGeluTanh,
                                             ActivationFunction::kGelu, ActivationFunction::kRelu};

TEST(DeviceTable, MatmulActivationForward) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const Sizes& s : sizes_on(device))
      for (const ActivationFunction f : kFunctions)
        for (const bool has_bias : {false, true}) {
          Harness h(device);
          Operand& x = h.input(dtype, s.tokens, s.in, s.gap);
          Operand& weight = h.input(dtype, s.out, s.in, 0, 0.0, about_one(s.in));
          Operand& bias = h.input(dtype, 1, s.out);
          Operand& pre = h.output(dtype, s.tokens, s.out, s.gap);
          Operand& y = h.output(dtype, s.tokens, s.out, s.gap);
          h.run([&](OpContext& c, Side side) {
            matmul_activation_forward(c, f, x(side), weight(side),
                                      has_bias ? bias.vector(side) : TensorView{}, pre(side),
                                      y(side));
          });
          h.expect_close(pre, 4, text_of("matmul_activation_forward, pre,", dtype, s));
          h.expect_close(y, 4, text_of("matmul_activation_forward, y,", dtype, s));
        }
  });
}

TEST(DeviceTable, MatmulActivationBackward) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const Sizes& s : sizes_on(device))
      for (const ActivationFunction f : kFunctions)
        for (const bool has_bias : {false, true}) {
          Harness h(device);
          Operand& dy = h.input(dtype, s.tokens, s.in, s.gap);
          Operand& weight = h.input(dtype, s.in, s.out, 0, 0.0, about_one(s.in));
          Operand& pre = h.input(dtype, s.tokens, s.out, s.gap);
          Operand& dpre = h.output(dtype, s.tokens, s.out, s.gap);
          Operand& dbias = h.output(dtype, 1, s.out);
          h.run([&](OpContext& c, Side side) {
            matmul_activation_backward(c, f, dy(side), weight(side), pre(side), dpre(side),
                                       has_bias ? dbias.vector(side) : TensorView{});
          });
          h.expect_close(dpre, 8, text_of("matmul_activation_backward, dpre,", dtype, s));
          // Sums of so many numbers of order 1 that were rounded at different times.
          const double spread = std::sqrt(static_cast<double>(s.tokens));
          if (has_bias)
            h.expect_close(dbias, 4 * spread,
                           text_of("matmul_activation_backward, dbias,", dtype, s));
        }
  });
}

TEST(DeviceTable, MatmulWeightGradient) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const Sizes& s : sizes_on(device))
      for (const bool wide : {false, true})
        for (const bool has_bias : {false, true}) {
          Harness h(device);
          Operand& dy = h.input(dtype, s.tokens, s.out, s.gap);
          Operand& x = h.input(dtype, s.tokens, s.in, s.gap, 0.0, about_one(s.tokens));
          Operand& dweight = h.output(wide ? DType::kF32 : dtype, s.out, s.in);
          Operand& dbias = h.output(dtype, 1, s.out);
          h.run([&](OpContext& c, Side side) {
            matmul_weight_gradient(c, dy(side), x(side), dweight(side),
                                   has_bias ? dbias.vector(side) : TensorView{});
          });
          h.expect_close(dweight, 8, text_of("matmul_weight_gradient", dtype, s));
          const double spread = std::sqrt(static_cast<double>(s.tokens));
          if (has_bias)
            h.expect_close(dbias, 4 * spread, text_of("matmul_weight_gradient, dbias,", dtype, s));
        }
  });
}

// The products of a head: logits in fp32, their gradient in place of them (a 16-bit row in the
// first half of its row), the input's and the table's gradient. Stride: between rows of logits.
void compare_head(const TestDevice& device, DType dtype, std::int64_t tokens, std::int64_t width,
                  std::int64_t stride) {
  constexpr std::int64_t kVocab = 50257;
  const std::string what = "head of " + std::to_string(kVocab) + ", stride " +
                           std::to_string(stride) + ", " + std::string(core::name_of(dtype));
  Harness h(device);
  const std::int64_t ratio = dtype == DType::kF32 ? 1 : 2;
  Operand& x = h.input(dtype, tokens, width);
  Operand& table = h.input(dtype, kVocab, width, 0, 0.0, about_one(width));
  Operand& logits = h.output(DType::kF32, tokens, kVocab, stride - kVocab);
  Operand& dlogits =
      h.input(dtype, tokens, kVocab, stride * ratio - kVocab, 0.0, about_one(kVocab));
  Operand& dx = h.output(dtype, tokens, width);
  Operand& dtable = h.output(DType::kF32, kVocab, width);
  h.run([&](OpContext& c, Side side) {
    matmul(c, x(side), Transpose::kNo, table(side), Transpose::kYes, logits(side));
    matmul(c, dlogits(side), Transpose::kNo, table(side), Transpose::kNo, dx(side));
    matmul_weight_gradient(c, dlogits(side), x(side), dtable(side), {});
  });
  h.expect_close(logits, 4, what + ", logits");
  h.expect_close(dx, 4, what + ", dx");
  h.expect_close(dtable, 4, what + ", dtable");
}

TEST(DeviceTable, ProductsWithTheVocabularyOfGpt2) {
  for (const TestDevice& device : test::devices_under_test()) {
    compare_head(device, DType::kBF16, 2, 8, 50304);
    if (device.stand_in || test::only_small()) continue;
    for (const DType dtype : test::device_dtypes())
      for (const std::int64_t stride : {50257, 50304})
        compare_head(device, dtype, 16, 128, stride);
  }
}

// Which of the two functions a device takes for gelu_tanh: the share of the difference between them
// that its error has.
TEST(DeviceTable, GeluTanhIsTheTanhFormInOneCallToo) {
  constexpr std::int64_t kCols = 256;
  const auto gelu_of = [](std::vector<double> at, ActivationFunction f) {
    core::MemoryTracker memory;
    OpContext cpu(1, memory);
    const TensorView x(at.data(), DType::kF64, {kCols});
    activation_forward(cpu, f, x, x);
    return at;
  };
  for (const TestDevice& device : test::devices_under_test()) {
    Harness h(device);
    std::vector<double> points;
    for (std::int64_t i = 0; i < kCols; ++i)
      points.push_back(-4.0 + static_cast<double>(i) / 64.0);
    Operand& x = h.input(DType::kF16, 16, 64, 0, 0.0, 0.0);
    Operand& weight = h.input(DType::kF16, kCols, 64);
    Operand& bias = h.input(DType::kF16, points);
    Operand& pre = h.output(DType::kF16, 16, kCols);
    Operand& y = h.output(DType::kF16, 16, kCols);
    h.run([&](OpContext& c, Side side) {
      matmul_activation_forward(c, ActivationFunction::kGeluTanh, x(side), weight(side),
                                bias.vector(side), pre(side), y(side));
    });
    const std::vector<double> tanh_form = gelu_of(points, ActivationFunction::kGeluTanh);
    const std::vector<double> exact = gelu_of(points, ActivationFunction::kGelu);
    const std::vector<double> values = y.device().values();
    double along = 0.0;
    double whole = 0.0;
    for (std::size_t i = 0; i < points.size(); ++i) {
      along += (values[i] - tanh_form[i]) * (exact[i] - tanh_form[i]);
      whole += (exact[i] - tanh_form[i]) * (exact[i] - tanh_form[i]);
    }
    EXPECT_LT(std::abs(along / whole), 0.3) << device.name;
  }
}

// All three ops on one set of operands; the device's side in a context of `determinism`.
void compare_layer(Harness& h, OpContext& on_device, DType dtype) {
  constexpr std::int64_t kTokens = 264, kIn = 256, kWide = 1024;
  Operand& x = h.input(dtype, kTokens, kIn);
  Operand& up = h.input(dtype, kWide, kIn, 0, 0.0, about_one(kIn));
  Operand& bias = h.input(dtype, 1, kWide);
  Operand& dy = h.input(dtype, kTokens, kIn);
  Operand& down = h.input(dtype, kIn, kWide, 0, 0.0, about_one(kIn));
  Operand& pre = h.output(dtype, kTokens, kWide);
  Operand& y = h.output(dtype, kTokens, kWide);
  Operand& dpre = h.output(dtype, kTokens, kWide);
  Operand& dbias = h.output(dtype, 1, kWide);
  Operand& dweight = h.output(dtype, kIn, kWide);
  Operand& dout_bias = h.output(dtype, 1, kIn);
  constexpr auto kF = ActivationFunction::kGeluTanh;
  h.run([&](OpContext& given, Side side) {
    OpContext& c = side == Side::kCpu ? given : on_device;
    if (side == Side::kDevice) given.stream().synchronize();
    matmul_activation_forward(c, kF, x(side), up(side), bias.vector(side), pre(side), y(side));
    matmul_activation_backward(c, kF, dy(side), down(side), pre(side), dpre(side),
                               dbias.vector(side));
    matmul_weight_gradient(c, dy(side), y(side), dweight(side), dout_bias.vector(side));
    if (side == Side::kDevice) c.stream().synchronize();
  });
  h.expect_close(y, 4, "layer, y");
  h.expect_close(dpre, 8, "layer, dpre");
  h.expect_close(dbias, 64, "layer, dbias");
  h.expect_close(dweight, 64, "layer, dweight");
  h.expect_close(dout_bias, 64, "layer, dout_bias");
}

bool on_hopper(const TestDevice& device) {
  core::DeviceProperties properties;
  device.ref.runtime->properties(device.ref.device.index, &properties);
  return properties.major == 9;
}

// The line of what was chosen for the product with this epilogue; empty where there is none.
std::string line_of(const std::string& choices, const std::string& epilogue) {
  const std::size_t at = choices.find(" " + epilogue + "\", {");
  if (at == std::string::npos) return "";
  const std::size_t begin = choices.rfind('\n', at) + 1;
  return choices.substr(begin, choices.find('\n', at) - begin);
}

// At these sizes one call is the fastest wherever it exists, so results of epilogues are compared.
// On Hopper they exist for 16 bits; a mistake in how they are asked for would be taken for their
// absence otherwise.
TEST(DeviceTable, FusedProductsWithAlgorithmsChosenByTiming) {
  for (const TestDevice& device : test::devices_under_test()) {
    if (device.stand_in) continue;  // has no library
    for (const DType dtype : test::device_dtypes()) {
      Harness h(device);
      OpContext context(1, h.memory(), device.ref, *device.bodies, Determinism::kNone);
      compare_layer(h, context, dtype);
      const std::string choices = device.bodies->describe_choices(context.libraries());
      for (const char* epilogue : {"gelu+bias", "dgelu+dbias", "dbias"}) {
        const std::string line = line_of(choices, epilogue);
        EXPECT_NE(line.find("best of"), std::string::npos) << epilogue << " in\n" << choices;
        if (dtype == DType::kF32 || !on_hopper(device)) continue;
        EXPECT_EQ(line.find("best of 0"), std::string::npos) << line;
      }
    }
  }
  if (!test::why_no_gpu().empty()) GTEST_SKIP() << test::why_no_gpu();
}

// What bits may depend on without a table: GELU joins the product, sums of gradients do not.
TEST(DeviceTable, FusedProductsWithoutAnEntryInTheTable) {
  if (!test::why_no_gpu().empty()) GTEST_SKIP() << test::why_no_gpu();
  const TestDevice& device = test::devices_under_test().back();
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    Harness h(device);
    OpContext context(1, h.memory(), device.ref, *device.bodies);
    compare_layer(h, context, dtype);
    const std::string choices = device.bodies->describe_choices(context.libraries());
    const char* gelu = on_hopper(device) ? "{true" : "{false";
    EXPECT_NE(line_of(choices, "gelu+bias").find(gelu), std::string::npos) << choices;
    for (const char* epilogue : {"dgelu", "dgelu+dbias", "dbias"})
      EXPECT_NE(line_of(choices, epilogue).find("{false"), std::string::npos) << choices;
  }
}

}  // namespace
}  // namespace lockstep::ops
