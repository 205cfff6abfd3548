#include "ops/op_bodies.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 1: ops on rows. Tolerances are in units of the
// output's dtype (tolerance_of), above 1 where many rounded terms are added.
namespace lockstep::ops {
namespace {

using core::DType;
using test::Harness;
using test::Operand;
using test::Side;
using test::TestDevice;

struct RowsShape {
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t gap;
};

// Widths that are and are not multiples of 8, one token, rows that do and do not begin on 16 bytes.
const std::vector<RowsShape>& shapes() {
  static const std::vector<RowsShape> all = {{1, 1, 0},   {1, 64, 0},  {5, 7, 0},   {9, 20, 3},
                                             {33, 64, 8}, {3, 771, 0}, {2, 1304, 8}};
  return all;
}

std::string describe(const char* op, DType dtype, const RowsShape& s) {
  return std::string(op) + " " + std::string(core::name_of(dtype)) + " [" + std::to_string(s.rows) +
         ", " + std::to_string(s.cols) + "]+" + std::to_string(s.gap);
}

Dropout dropout_of(std::int64_t sequence_rows) {
  Dropout dropout;
  dropout.probability = 0.3;
  dropout.key = core::stream_key(7, "dropout/test", 3);
  dropout.first_sequence = 5;
  dropout.sequence_rows = sequence_rows;
  return dropout;
}

TEST(DeviceTable, AGpuTakesPart) {
  const std::string why = test::why_no_gpu();
  if (!why.empty() && !test::only_gpu()) GTEST_SKIP() << why;
  ASSERT_EQ(why, "");
  EXPECT_EQ(test::devices_under_test().back().name, "cuda:0");
}

// Whole packs, by how many of them a thread keeps.
const std::vector<RowsShape>& whole_shapes() {
  static const std::vector<RowsShape> all = {
      {70, 128, 0}, {21, 512, 8}, {11, 768, 0}, {9, 1024, 0}};
  return all;
}

void expect_layer_norm(const TestDevice& device, DType dtype, const RowsShape& s) {
  Harness h(device);
  Operand& x = h.input(dtype, s.rows, s.cols, s.gap, 0.5, 2.0);
  Operand& gain = h.input(dtype, 1, s.cols, 0, 1.0, 0.3);
  Operand& bias = h.input(dtype, 1, s.cols);
  Operand& dy = h.input(dtype, s.rows, s.cols, s.gap);
  Operand& add = h.input(dtype, s.rows, s.cols, s.gap);
  Operand& y = h.output(dtype, s.rows, s.cols, s.gap);
  Operand& mean = h.output(DType::kF32, 1, s.rows);
  Operand& rstd = h.output(DType::kF32, 1, s.rows);
  Operand& dx = h.output(dtype, s.rows, s.cols, s.gap);
  Operand& dgain = h.output(dtype, 1, s.cols);
  Operand& dbias = h.output(dtype, 1, s.cols);
  h.run([&](OpContext& c, Side side) {
    layer_norm_forward(c, x(side), gain.vector(side), bias.vector(side), 1e-5, y(side),
                       mean.vector(side), rstd.vector(side));
    layer_norm_backward(c, dy(side), x(side), gain.vector(side), mean.vector(side),
                        rstd.vector(side), add(side), dx(side), dgain.vector(side),
                        dbias.vector(side));
  });
  const std::string what = describe("layer_norm", dtype, s);
  h.expect_close(y, 2, what + " y");
  h.expect_close(mean, 2, what + " mean");
  // A row of one element has no variance: rstd is 1 / sqrt(eps).
  h.expect_close(rstd, 4, what + " rstd");
  h.expect_close(dx, 4, what + " dx");
  h.expect_close(dgain, 8, what + " dgain");
  h.expect_close(dbias, 8, what + " dbias");
}

TEST(DeviceTable, LayerNorm) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RowsShape& s : shapes())
      expect_layer_norm(device, dtype, s);
    for (const RowsShape& s : whole_shapes())
      expect_layer_norm(device, dtype, s);
  });
}

// More rows than backward takes at once.
TEST(DeviceTable, LayerNormOfManyRows) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    if (dtype == DType::kBF16) expect_layer_norm(device, dtype, {140, 4104, 0});
  });
}

TEST(DeviceTable, LayerNormInPlaceWithoutBias) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    Harness h(device);
    const RowsShape s{70, 40, 0};
    Operand& x = h.input(dtype, s.rows, s.cols);
    Operand& saved = h.input(dtype, s.rows, s.cols);
    Operand& gain = h.input(dtype, 1, s.cols, 0, 1.0, 0.3);
    Operand& mean = h.output(DType::kF32, 1, s.rows);
    Operand& rstd = h.output(DType::kF32, 1, s.rows);
    Operand& dy = h.input(dtype, s.rows, s.cols);
    Operand& dgain = h.output(dtype, 1, s.cols);
    h.run([&](OpContext& c, Side side) {
      layer_norm_forward(c, x(side), gain.vector(side), {}, 1e-5, x(side), mean.vector(side),
                         rstd.vector(side));
      layer_norm_backward(c, dy(side), saved(side), gain.vector(side), mean.vector(side),
                          rstd.vector(side), {}, dy(side), dgain.vector(side), {});
    });
    h.expect_close(x, 2, describe("layer_norm in place", dtype, s));
    h.expect_close(dy, 8, describe("layer_norm dx in dy", dtype, s));
    h.expect_close(dgain, 16, describe("layer_norm dgain", dtype, s));
  });
}

struct Heads {
  std::int64_t rows, heads, width, gap;
};

void expect_rms_norm(const TestDevice& device, DType dtype, const Heads& s) {
  Harness h(device);
  const std::int64_t cols = s.heads * s.width;
  Operand& x = h.input(dtype, s.rows, cols, s.gap, 0.2, 1.5);
  Operand& gain = h.input(dtype, 1, s.width, 0, 1.0, 0.3);
  Operand& dy = h.input(dtype, s.rows, cols, s.gap);
  Operand& add = h.input(dtype, s.rows, cols, s.gap);
  Operand& y = h.output(dtype, s.rows, cols, s.gap);
  Operand& rstd = h.output(DType::kF32, 1, s.rows * s.heads);
  Operand& dgain = h.output(dtype, 1, s.width);
  h.run([&](OpContext& c, Side side) {
    rms_norm_forward(c, x(side), gain.vector(side), 1e-6, s.heads, y(side), rstd.vector(side));
    // add may be dx.
    rms_norm_backward(c, dy(side), x(side), gain.vector(side), rstd.vector(side), s.heads,
                      add(side), add(side), dgain.vector(side));
  });
  const std::string what = describe("rms_norm", dtype, {s.rows, cols, s.gap});
  h.expect_close(y, 2, what + " y");
  h.expect_close(rstd, 4, what + " rstd");
  h.expect_close(add, 4, what + " dx");
  h.expect_close(dgain, 8, what + " dgain");
}

TEST(DeviceTable, RmsNormByHeads) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const Heads& s : {Heads{1, 1, 8, 0}, Heads{7, 3, 20, 4}, Heads{10, 2, 64, 0},
                           Heads{3, 1, 771, 0}, Heads{2, 1, 2048, 0}, Heads{9, 5, 768, 8}})
      expect_rms_norm(device, dtype, s);
  });
}

// More groups than a GPU takes at once, which goes on within another head.
TEST(DeviceTable, RmsNormOfManyHeads) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    if (dtype == DType::kBF16) expect_rms_norm(device, dtype, {700, 5, 512, 0});
  });
}

TEST(DeviceTable, Residual) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RowsShape& s : {RowsShape{1, 1, 0}, RowsShape{6, 7, 0}, RowsShape{6, 40, 0},
                               RowsShape{4, 300, 4}, RowsShape{64, 136, 0}}) {
      for (const bool gated : {false, true})
        for (const bool drops : {false, true}) {
          Harness h(device);
          Dropout dropout = drops ? dropout_of(s.rows % 2 == 0 ? 2 : 1) : Dropout{};
          Operand& x = h.input(dtype, s.rows, s.cols, s.gap);
          Operand& branch = h.input(dtype, s.rows, s.cols, s.gap);
          Operand& gate = h.input(dtype, 1, 1, 0, 0.7, 0.1);
          Operand& y = h.output(dtype, s.rows, s.cols, s.gap);
          Operand& dbranch = h.output(dtype, s.rows, s.cols, s.gap);
          Operand& dgate = h.output(dtype, 1, 1);
          h.run([&](OpContext& c, Side side) {
            const auto optional = [&](Operand& o) {
              return gated ? o.vector(side) : core::TensorView{};
            };
            residual_forward(c, x(side), branch(side), optional(gate), dropout, y(side));
            residual_backward(c, x(side), gated ? branch(side) : core::TensorView{}, optional(gate),
                              dropout, dbranch(side), optional(dgate));
          });
          const std::string what = describe("residual", dtype, s);
          h.expect_close(y, 2, what + " y");
          h.expect_close(dbranch, 2, what + " dbranch");
          if (gated) h.expect_close(dgate, 8, what + " dgate");
        }
    }
  });
}

TEST(DeviceTable, DropoutTakesTheDecisionsOfTheCpu) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RowsShape& s : shapes()) {
      Harness h(device);
      Operand& x = h.input(dtype, s.rows, s.cols, s.gap);
      Operand& y = h.output(dtype, s.rows, s.cols, s.gap);
      Operand& copy = h.output(dtype, s.rows, s.cols, s.gap);
      h.run([&](OpContext& c, Side side) {
        dropout(c, x(side), dropout_of(1), y(side));
        dropout(c, x(side), Dropout{}, copy(side));
      });
      h.expect_equal(y, describe("dropout", dtype, s));
      h.expect_equal(copy, describe("no dropout", dtype, s));
    }
  });
}

TEST(DeviceTable, Activations) {
  using enum ActivationFunction;
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const ActivationFunction f : {kGelu, kGeluTanh, kRelu, kLeakyRelu, kElu, kSilu, kTanh})
      // The last two are longer than what one block of threads takes.
      for (const RowsShape& s : {RowsShape{3, 37, 0}, RowsShape{4, 264, 8}, RowsShape{2, 8200, 8},
                                 RowsShape{3, 5003, 0}}) {
        Harness h(device);
        Operand& x = h.input(dtype, s.rows, s.cols, s.gap, 0.0, 3.0);
        Operand& up = h.input(dtype, s.rows, s.cols, s.gap);
        Operand& dy = h.input(dtype, s.rows, s.cols, s.gap);
        Operand& y = h.output(dtype, s.rows, s.cols, s.gap);
        Operand& dx = h.output(dtype, s.rows, s.cols, s.gap);
        Operand& gated = h.output(dtype, s.rows, s.cols, s.gap);
        h.run([&](OpContext& c, Side side) {
          activation_forward(c, f, x(side), y(side));
          activation_backward(c, f, x(side), dy(side), dx(side));
          gated_activation_forward(c, f, x(side), up(side), gated(side));
          gated_activation_backward(c, f, x(side), up(side), dy(side), x(side), up(side));
        });
        const std::string what =
            describe("activation", dtype, s) + " " + std::to_string(static_cast<int>(f));
        h.expect_close(y, 2, what + " y");
        h.expect_close(dx, 2, what + " dx");
        h.expect_close(gated, 2, what + " gated");
        h.expect_close(x, 2, what + " dgate in gate");
        h.expect_close(up, 2, what + " dup in up");
      }
  });
}

TEST(DeviceTable, Rope) {
  struct Rotation {
    std::int64_t sequences, length, heads, width, gap;
  };
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const Rotation& s : {Rotation{1, 1, 1, 2, 0}, Rotation{2, 5, 3, 20, 3},
                              Rotation{1, 33, 2, 64, 64}, Rotation{1, 2048, 1, 16, 0}}) {
      Harness h(device);
      const std::int64_t rows = s.sequences * s.length;
      Operand& x = h.input(dtype, rows, s.heads * s.width, s.gap);
      Operand& turned_back = h.input(dtype, rows, s.heads * s.width, s.gap);
      Operand& cosines = h.output(DType::kF32, s.length, s.width / 2);
      Operand& sines = h.output(DType::kF32, s.length, s.width / 2);
      h.run([&](OpContext& c, Side side) {
        fill_rope_table(c, 10000.0, {}, cosines(side), sines(side));
        rope(c, RopeDirection::kForward, s.length, s.width, cosines(side), sines(side), x(side));
        rope(c, RopeDirection::kBackward, s.length, s.width, cosines(side), sines(side),
             turned_back(side));
      });
      const std::string what = describe("rope", dtype, {rows, s.heads * s.width, s.gap});
      h.expect_equal(cosines, what + " cosines");
      h.expect_equal(sines, what + " sines");
      h.expect_close(x, 2, what);
      h.expect_close(turned_back, 2, what + " backward");
    }
  });
}

TEST(DeviceTable, Embedding) {
  struct Table {
    std::int64_t vocabulary, sequences, length, cols, gap;
  };
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const Table& s :
         {Table{1, 1, 1, 1, 0}, Table{11, 3, 17, 20, 3}, Table{40, 2, 64, 264, 0},
          Table{50257, 1, 3, 8, 0}, Table{3, 2, 300, 16, 0}, Table{6, 1, 9, 1304, 8}}) {
      Harness h(device);
      const std::int64_t n = s.sequences * s.length;
      std::vector<std::int32_t> tokens;
      for (std::int64_t i = 0; i < n; ++i) {
        // Most tokens are few ids, as in text.
        const std::int64_t id = i % 3 == 0 ? 0 : i * 7919;
        tokens.push_back(static_cast<std::int32_t>(id % s.vocabulary));
      }
      tokens.back() = static_cast<std::int32_t>(s.vocabulary - 1);
      const std::int64_t begin = s.vocabulary / 3;
      Operand& table = h.input(dtype, s.vocabulary, s.cols);
      Operand& positions = h.input(dtype, s.length + 2, s.cols);
      Operand& type_row = h.input(dtype, 1, s.cols);
      Operand& out = h.output(dtype, n, s.cols, s.gap);
      Operand& dx = h.input(dtype, n, s.cols, s.gap);
      Operand& add = h.input(DType::kF32, s.vocabulary - begin, s.cols);
      Operand& dtable = h.output(dtype, s.vocabulary, s.cols);
      Operand& dpart = h.output(dtype, s.vocabulary - begin, s.cols);
      Operand& dpositions = h.output(dtype, s.length + 2, s.cols);
      h.run([&](OpContext& c, Side side) {
        embedding_forward(c, tokens, s.length, table(side), positions(side), type_row.vector(side),
                          out(side));
        embedding_backward(c, tokens, dx(side), 0, s.vocabulary, {}, dtable(side));
        embedding_backward(c, tokens, dx(side), begin, s.vocabulary, add(side), dpart(side));
        position_backward(c, dx(side), s.length, dpositions(side));
      });
      const std::string what = describe("embedding", dtype, {s.vocabulary, s.cols, s.gap});
      h.expect_close(out, 1, what);
      h.expect_close(dtable, 4, what + " dtable");
      h.expect_close(dpart, 4, what + " part of dtable, with the head's share");
      h.expect_equal(dpositions, what + " dpositions");
    }
  });
}

TEST(DeviceTable, ColumnSum) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const RowsShape& s : {RowsShape{1, 1, 0}, RowsShape{300, 7, 0}, RowsShape{65, 64, 8},
                               RowsShape{40, 771, 5}, RowsShape{9000, 8, 0}}) {
      Harness h(device);
      Operand& x = h.input(dtype, s.rows, s.cols, s.gap);
      Operand& sum = h.output(dtype, 1, s.cols);
      h.run([&](OpContext& c, Side side) { column_sum(c, x(side), sum.vector(side)); });
      h.expect_close(sum, 8, describe("column_sum", dtype, s));
    }
  });
}

TEST(DeviceTable, Accumulate) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const std::int64_t n : {1, 7, 64, 5000}) {
      Harness h(device);
      Operand& values = h.input(dtype, 1, n);
      Operand& sum = h.input(DType::kF32, 1, n);
      Operand& fresh = h.output(DType::kF32, 1, n);
      h.run([&](OpContext& c, Side side) {
        accumulate(c, values.vector(side), false, sum.vector(side));
        accumulate(c, values.vector(side), true, fresh.vector(side));
      });
      h.expect_equal(sum, describe("accumulate", dtype, {1, n, 0}));
      h.expect_equal(fresh, describe("overwrite", dtype, {1, n, 0}));
    }
  });
}

TEST(DeviceTable, Scale) {
  test::for_each_device([](const TestDevice& device, DType dtype) {
    for (const std::int64_t n : {1, 37, 5003}) {
      Harness h(device);
      Operand& x = h.input(dtype, 1, n);
      h.run([&](OpContext& c, Side side) {
        const core::TensorView view = x(side);
        scale(c, 0.3, {view.raw(), view.dtype(), {n}, view.device()});
      });
      h.expect_close(x, 1, "scale " + std::to_string(n));
    }
  });
}

}  // namespace
}  // namespace lockstep::ops
