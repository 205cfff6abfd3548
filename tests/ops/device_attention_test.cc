#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "ops/op_bodies.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 4: attention, by the own kernels and by cuDNN.
namespace lockstep::ops {
namespace {

using core::DType;
using core::TensorView;
using test::Harness;
using test::Operand;
using test::Side;
using test::TestDevice;

struct AttentionShape {
  std::int64_t sequences, length, heads, kv_heads, width;
  bool causal;
  bool drops;
  std::int64_t window = 0;
};

AttentionSpec spec_of(const AttentionShape& s) {
  AttentionSpec spec;
  spec.sequences = s.sequences;
  spec.length = s.length;
  spec.heads = s.heads;
  spec.kv_heads = s.kv_heads;
  spec.head_width = s.width;
  spec.causal = s.causal;
  spec.window = s.window;
  spec.scale = 1.0 / std::sqrt(static_cast<double>(s.width));
  if (s.drops) {
    spec.dropout.probability = 0.25;
    spec.dropout.key = core::stream_key(11, "dropout/attention", 1);
    spec.dropout.first_sequence = 3;
  }
  return spec;
}

std::string name_of(DType dtype, const AttentionShape& s) {
  return "attention " + std::string(core::name_of(dtype)) + " B=" + std::to_string(s.sequences) +
         " T=" + std::to_string(s.length) + " H=" + std::to_string(s.heads) + "/" +
         std::to_string(s.kv_heads) + " D=" + std::to_string(s.width) +
         (s.causal ? " causal" : "") + (s.window > 0 ? " window " + std::to_string(s.window) : "") +
         (s.drops ? " dropout" : "");
}

// Which context computes what: each half of attention may come from a body of its own.
struct Halves {
  Determinism forward = Determinism::kRun;
  Determinism backward = Determinism::kRun;
};

// Who served the two halves on the device; empty where there is no choice.
struct Servers {
  std::string forward;
  std::string backward;
};

Servers compare_attention(const TestDevice& device, DType dtype, const AttentionShape& s,
                          bool backward, Halves halves = {}) {
  const AttentionSpec spec = spec_of(s);
  Harness h(device, halves.forward);
  std::unique_ptr<OpContext> other;
  if (halves.backward != halves.forward) {
    other = std::make_unique<OpContext>(1, h.memory(), device.ref, *device.bodies, halves.backward);
  }
  const auto server_of = [&](OpContext& c) {
    return device.bodies->attention_server == nullptr
               ? std::string()
               : std::string(device.bodies->attention_server(c));
  };
  Servers servers;
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
    if (side == Side::kDevice) servers.forward = server_of(c);
    if (!backward) return;
    OpContext& second = side == Side::kDevice && other != nullptr ? *other : c;
    if (&second != &c) c.stream().synchronize();
    attention_backward(second, spec, dout(side), q(qkv), k(qkv), v(qkv), out(side), lse(side),
                       q(dqkv), k(dqkv), v(dqkv));
    if (&second != &c) second.stream().synchronize();
    if (side == Side::kDevice) servers.backward = server_of(second);
  });
  const std::string what = name_of(dtype, s);
  // A library may take faster exponentials and logarithms; another base or scale would be off by 1.
  h.expect_close(lse, halves.forward == Determinism::kNone ? 64 : 4,
                 what + " lse, by " + servers.forward);
  h.expect_close(out, 4, what + " out, by " + servers.forward);
  if (backward) h.expect_close(dqkv, 8, what + " dq, dk, dv, by " + servers.backward);
  return servers;
}

TEST(DeviceTable, Attention) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const AttentionShape& s :
         {AttentionShape{1, 1, 1, 1, 8, true, false}, AttentionShape{2, 9, 4, 2, 20, true, false},
          AttentionShape{1, 37, 2, 1, 64, false, false}, AttentionShape{1, 40, 3, 3, 7, true, true},
          AttentionShape{2, 33, 2, 2, 16, false, true},
          AttentionShape{1, 70, 4, 2, 16, true, true, 40},
          AttentionShape{2, 40, 2, 1, 64, true, false, 3},
          AttentionShape{1, 5, 1, 1, 128, true, false},
          // Several steps of 32 or 64 and tiles of 128 positions, the last one not full.
          AttentionShape{1, 130, 2, 1, 64, true, false},
          AttentionShape{1, 100, 2, 2, 80, false, true},
          AttentionShape{1, 129, 2, 1, 128, true, true},
          AttentionShape{1, 270, 2, 1, 64, true, false},
          AttentionShape{1, 257, 1, 1, 64, false, false},
          AttentionShape{1, 200, 1, 1, 64, true, true},
          AttentionShape{1, 161, 1, 1, 128, false, false}}) {
      if (test::only_small() && s.length > 64 && (dtype != DType::kBF16 || s.length > 130))
        continue;
      compare_attention(device, dtype, s, true);
    }
  });
}

// Tensor cores where they can serve, the plain kernels elsewhere.
TEST(DeviceTable, AttentionIsServedByTensorCoresWhereItCanBe) {
  if (test::only_gpu()) GTEST_SKIP() << "the stand-in, which keeps a record, is left out";
  const TestDevice& stand_in = test::devices_under_test().front();
  const auto kernels_of = [&](DType dtype, std::int64_t width, std::int64_t window = 0) {
    std::vector<std::string> calls;
    core::cuda::stand_in_settings().record = &calls;
    compare_attention(stand_in, dtype, {1, 9, 1, 1, width, true, false, window}, true);
    core::cuda::stand_in_settings().record = nullptr;
    return std::any_of(calls.begin(), calls.end(), [](const std::string& call) {
      return call.find("flash_backward_kv") != std::string::npos;
    });
  };
  EXPECT_TRUE(kernels_of(DType::kBF16, 64));
  EXPECT_TRUE(kernels_of(DType::kF16, 128));
  EXPECT_FALSE(kernels_of(DType::kBF16, 64, 4)) << "they know no windows";
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
    if (test::only_small()) continue;
    for (const DType dtype : test::device_dtypes())
      compare_attention(device, dtype, full, true);
  }
}

bool by_cudnn(const std::string& server) {
  return server.rfind("cuDNN", 0) == 0;
}

// Why cuDNN takes no part on a device; empty where it does.
std::string why_no_cudnn(const TestDevice& device) {
  if (device.stand_in) return "the stand-in has no libraries";
  Harness h(device, Determinism::kNone);
  Operand& qkv = h.input(DType::kBF16, 128, 3 * 64);
  Operand& out = h.output(DType::kBF16, 128, 64);
  Operand& lse = h.output(DType::kF32, 1, 128);
  OpContext& c = h.context(Side::kDevice);
  const TensorView all = qkv(Side::kDevice);
  attention_forward(c, spec_of({1, 128, 1, 1, 64, true, false}), all.slice_cols(0, 64),
                    all.slice_cols(64, 128), all.slice_cols(128, 192), out(Side::kDevice),
                    lse(Side::kDevice));
  c.stream().synchronize();
  const std::string server = device.bodies->attention_server(c);
  return by_cudnn(server) ? "" : server;
}

// The GPU, if cuDNN serves attention on it.
const TestDevice* device_with_cudnn(std::string& why) {
  why = test::why_no_gpu();
  if (!why.empty()) return nullptr;
  const TestDevice& gpu = test::devices_under_test().back();
  why = why_no_cudnn(gpu);
  return why.empty() ? &gpu : nullptr;
}

struct LibraryShape {
  AttentionShape shape;
  bool forward_served;  // by cuDNN, whatever its version; the rest is told only
  bool backward_served;
};

const std::vector<LibraryShape>& library_shapes() {
  static const std::vector<LibraryShape> shapes = {
      {{2, 128, 1, 1, 64, true, false}, true, true},
      {{2, 256, 3, 3, 64, false, false}, true, true},
      {{1, 1024, 2, 2, 64, true, false}, true, true},
      {{1, 2048, 2, 2, 128, true, false}, true, true},
      {{2, 384, 2, 2, 80, true, false}, true, true},
      // Lengths that fill no tile.
      {{2, 201, 3, 3, 64, true, false}, true, false},
      {{2, 77, 1, 1, 80, false, false}, true, false},
      {{1, 1000, 2, 2, 128, false, false}, true, false},
      {{3, 2, 2, 2, 64, true, false}, false, false},
      {{1, 7, 2, 2, 72, true, false}, false, false},
      // Query heads that share keys and values.
      {{2, 256, 8, 2, 64, true, false}, false, false},
      {{1, 129, 6, 1, 128, false, false}, false, false},
      // Wider heads than the own kernels on tensor cores take.
      {{1, 128, 2, 2, 256, true, false}, false, false},
      // For the own kernels.
      {{2, 1, 2, 2, 64, true, false}, false, false},
      {{1, 130, 2, 1, 64, true, true}, false, false},
      {{1, 64, 2, 2, 20, true, false}, false, false},
  };
  return shapes;
}

// Where the context leaves sums to chance, a library may serve: the same table again. It tells who
// did.
TEST(DeviceTable, AttentionByALibrary) {
  std::string why;
  const TestDevice* gpu = device_with_cudnn(why);
  if (gpu == nullptr) GTEST_SKIP() << why;
  constexpr Halves kChance{Determinism::kNone, Determinism::kNone};
  for (const DType dtype : test::device_dtypes())
    for (std::size_t i = 0; i < library_shapes().size(); ++i) {
      const LibraryShape& s = library_shapes()[i];
      // Each shape is planned anew for each dtype, in about a second.
      if (dtype == DType::kF16 && i >= 6) break;
      const Servers servers = compare_attention(*gpu, dtype, s.shape, true, kChance);
      std::cout << name_of(dtype, s.shape) << ": forward by " << servers.forward << "; backward by "
                << servers.backward << "\n";
      if (dtype == DType::kF32) {
        EXPECT_FALSE(by_cudnn(servers.forward) || by_cudnn(servers.backward));
        continue;
      }
      EXPECT_TRUE(!s.forward_served || by_cudnn(servers.forward)) << servers.forward;
      EXPECT_TRUE(!s.backward_served || by_cudnn(servers.backward)) << servers.backward;
      if (s.shape.drops || s.shape.length == 1) {
        EXPECT_FALSE(by_cudnn(servers.forward) || by_cudnn(servers.backward));
      }
    }
}

// What one body leaves for backward, the other one takes: lse means the same to both.
TEST(DeviceTable, AttentionHalfByALibrary) {
  std::string why;
  const TestDevice* gpu = device_with_cudnn(why);
  if (gpu == nullptr) GTEST_SKIP() << why;
  const AttentionShape shape{2, 256, 3, 3, 64, true, false};
  const Servers first =
      compare_attention(*gpu, DType::kBF16, shape, true, {Determinism::kNone, Determinism::kRun});
  EXPECT_TRUE(by_cudnn(first.forward) && !by_cudnn(first.backward)) << first.backward;
  const Servers second =
      compare_attention(*gpu, DType::kBF16, shape, true, {Determinism::kRun, Determinism::kNone});
  EXPECT_TRUE(!by_cudnn(second.forward) && by_cudnn(second.backward)) << second.forward;
}

// The switch: a context that is to give the same bits each time has no use for cuDNN.
TEST(DeviceTable, AttentionByALibraryNeedsLeave) {
  const std::string why = test::why_no_gpu();
  if (!why.empty()) GTEST_SKIP() << why;
  const TestDevice& gpu = test::devices_under_test().back();
  const Servers servers =
      compare_attention(gpu, DType::kBF16, {1, 128, 2, 2, 64, true, false}, true);
  EXPECT_EQ(servers.forward, "own kernels: the same bits each time");
  EXPECT_EQ(servers.backward, servers.forward);
}

}  // namespace
}  // namespace lockstep::ops
