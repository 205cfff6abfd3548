#include <algorithm>
#include <string>
#include <vector>

#include "models/ops/op_bodies.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 2: matrix products and attention.
namespace lockstep::models::ops {
namespace {

using core::DType;
using test::Harness;
using test::Operand;
using test::Side;
using test::TestDevice;

struct ProductShape {
  std::int64_t m, n, k, gap;
};

TEST(DeviceTable, Matmul) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const ProductShape& s : {ProductShape{1, 1, 1, 0}, ProductShape{5, 40, 100, 0},
                                  ProductShape{33, 70, 45, 3}, ProductShape{64, 32, 128, 8}})
      for (const Transpose ta : {Transpose::kNo, Transpose::kYes})
        for (const Transpose tb : {Transpose::kNo, Transpose::kYes})
          for (const bool wide : {false, true}) {
            const bool a_turned = ta == Transpose::kYes;
            const bool b_turned = tb == Transpose::kYes;
            Harness h(device);
            Operand& a = h.input(dtype, a_turned ? s.k : s.m, a_turned ? s.m : s.k, s.gap);
            Operand& b = h.input(dtype, b_turned ? s.n : s.k, b_turned ? s.k : s.n, s.gap);
            Operand& bias = h.input(dtype, 1, s.n);
            Operand& out = h.output(wide ? DType::kF32 : dtype, s.m, s.n, s.gap);
            h.run([&](OpContext& c, Side side) {
              matmul(c, a(side), ta, b(side), tb, out(side),
                     wide ? core::TensorView{} : bias.vector(side));
            });
            h.expect_close(out, 8,
                           "matmul " + std::string(core::name_of(dtype)) + " " +
                               std::to_string(s.m) + "x" + std::to_string(s.n) + "x" +
                               std::to_string(s.k) + (a_turned ? " a^T" : "") +
                               (b_turned ? " b^T" : ""));
          }
  });
}

TEST(DeviceTable, MatmulOverNothingGivesTheBias) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    Harness h(device);
    Operand& bias = h.input(dtype, 1, 9);
    Operand& out = h.output(dtype, 3, 9);
    Operand& room = h.input(dtype, 1, 1);
    h.run([&](OpContext& c, Side side) {
      const core::TensorView at = room(side);
      const core::TensorView a(at.raw(), dtype, core::Shape{3, 0}, at.device());
      const core::TensorView b(at.raw(), dtype, core::Shape{9, 0}, at.device());
      matmul(c, a, Transpose::kNo, b, Transpose::kYes, out(side), bias.vector(side));
    });
    h.expect_equal(out, "matmul with k = 0");
  });
}

struct AttentionShape {
  std::int64_t sequences, length, heads, kv_heads, width;
  bool causal;
  bool drops;
};

void compare_attention(const TestDevice& device, DType dtype, const AttentionShape& s,
                       bool backward) {
  AttentionSpec spec;
  spec.sequences = s.sequences;
  spec.length = s.length;
  spec.heads = s.heads;
  spec.kv_heads = s.kv_heads;
  spec.head_width = s.width;
  spec.causal = s.causal;
  spec.scale = 1.0 / std::sqrt(static_cast<double>(s.width));
  if (s.drops) {
    spec.dropout.probability = 0.25;
    spec.dropout.key = core::stream_key(11, "dropout/attention", 1);
    spec.dropout.first_sequence = 3;
  }
  Harness h(device);
  const std::int64_t rows = s.sequences * s.length;
  const std::int64_t q_cols = s.heads * s.width;
  const std::int64_t kv_cols = s.kv_heads * s.width;
  // Slices of one packed row, as the model has them.
  Operand& qkv = h.input(dtype, rows, q_cols + 2 * kv_cols);
  Operand& dout = h.input(dtype, rows, q_cols);
  Operand& out = h.output(dtype, rows, q_cols);
  Operand& lse = h.output(DType::kF32, s.sequences * s.heads, s.length);
  Operand& dqkv = h.output(dtype, rows, q_cols + 2 * kv_cols);
  h.run([&](OpContext& c, Side side) {
    const auto q = [&](Operand& o) { return o(side).slice_cols(0, q_cols); };
    const auto k = [&](Operand& o) { return o(side).slice_cols(q_cols, q_cols + kv_cols); };
    const auto v = [&](Operand& o) {
      return o(side).slice_cols(q_cols + kv_cols, q_cols + 2 * kv_cols);
    };
    attention_forward(c, spec, q(qkv), k(qkv), v(qkv), out(side), lse(side));
    if (!backward) return;
    attention_backward(c, spec, dout(side), q(qkv), k(qkv), v(qkv), out(side), lse(side), q(dqkv),
                       k(dqkv), v(dqkv));
  });
  const std::string what = "attention " + std::string(core::name_of(dtype)) +
                           " T=" + std::to_string(s.length) + " D=" + std::to_string(s.width) +
                           (s.causal ? " causal" : "");
  h.expect_close(lse, 4, what + " lse");
  h.expect_close(out, 4, what + " out");
  if (backward) h.expect_close(dqkv, 8, what + " dq, dk, dv");
}

TEST(DeviceTable, Attention) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const AttentionShape& s :
         {AttentionShape{1, 1, 1, 1, 8, true, false}, AttentionShape{2, 9, 4, 2, 20, true, false},
          AttentionShape{1, 37, 2, 1, 64, false, false}, AttentionShape{1, 40, 3, 3, 7, true, true},
          AttentionShape{2, 33, 2, 2, 16, false, true},
          AttentionShape{1, 5, 1, 1, 128, true, false},
          // Several tiles of 64 positions, the last one not full.
          AttentionShape{1, 130, 2, 1, 64, true, false},
          AttentionShape{1, 100, 2, 2, 80, false, true},
          AttentionShape{1, 129, 2, 1, 128, true, true}})
      compare_attention(device, dtype, s, true);
  });
}

// Tensor cores where they can serve, the plain kernels elsewhere.
TEST(DeviceTable, AttentionIsServedByTensorCoresWhereItCanBe) {
  if (test::only_gpu()) GTEST_SKIP() << "the stand-in, which keeps a record, is left out";
  const TestDevice& stand_in = test::devices_under_test().front();
  const auto kernels_of = [&](DType dtype, std::int64_t width) {
    std::vector<std::string> calls;
    core::cuda::stand_in_settings().record = &calls;
    compare_attention(stand_in, dtype, {1, 9, 1, 1, width, true, false}, true);
    core::cuda::stand_in_settings().record = nullptr;
    return std::any_of(calls.begin(), calls.end(), [](const std::string& call) {
      return call.find("flash_backward_kv") != std::string::npos;
    });
  };
  EXPECT_TRUE(kernels_of(DType::kBF16, 64));
  EXPECT_TRUE(kernels_of(DType::kF16, 128));
  EXPECT_FALSE(kernels_of(DType::kF32, 64));
  EXPECT_FALSE(kernels_of(DType::kBF16, 12));
  EXPECT_FALSE(kernels_of(DType::kBF16, 136));
}

TEST(DeviceTable, AttentionOverALongContext) {
  for (const TestDevice& device : test::devices_under_test()) {
    const AttentionShape small{1, 2048, 1, 1, 4, true, false};
    const AttentionShape full{2, 2048, 4, 2, 64, true, false};
    if (device.stand_in) {
      compare_attention(device, DType::kF32, small, false);
      continue;
    }
    for (const DType dtype : test::device_dtypes())
      compare_attention(device, dtype, full, true);
  }
}

}  // namespace
}  // namespace lockstep::models::ops
