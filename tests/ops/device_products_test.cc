#include <string>

#include "ops/op_bodies.h"
#include "tests/support/device_harness.h"

// The table device x dtype x shape x tolerance, part 2: matrix products.
namespace lockstep::ops {
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

}  // namespace
}  // namespace lockstep::ops
