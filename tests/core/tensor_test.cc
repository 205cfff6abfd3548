#include "core/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "core/error.h"

namespace lockstep::core {
namespace {

TEST(Shape, CountsAndPrints) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.elements(), 24);
  EXPECT_EQ(shape.back(), 4);
  EXPECT_EQ(to_string(shape), "[2, 3, 4]");
  EXPECT_EQ(Shape{}.elements(), 1);
  EXPECT_EQ((Shape{0, 5}).elements(), 0);
  EXPECT_TRUE(shape == (Shape{2, 3, 4}));
  EXPECT_FALSE(shape == (Shape{2, 12}));
  EXPECT_FALSE((Shape{3}) == (Shape{3, 0}));
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), Error);
  EXPECT_THROW((Shape{-1}), Error);
}

class TensorViewTest : public testing::Test {
 protected:
  TensorViewTest() : data(24) { std::iota(data.begin(), data.end(), 0.0F); }
  std::vector<float> data;
};

TEST_F(TensorViewTest, CollapsesLeadingDimensionsIntoRows) {
  const TensorView view(data.data(), DType::kF32, {2, 3, 4});
  EXPECT_EQ(view.rows(), 6);
  EXPECT_EQ(view.cols(), 4);
  EXPECT_TRUE(view.contiguous());
  EXPECT_EQ(view.bytes(), 96U);
  EXPECT_EQ(view.row<float>(5)[3], 23.0F);
}

TEST_F(TensorViewTest, SlicesReferToTheSameMemory) {
  const TensorView view(data.data(), DType::kF32, {6, 4});
  const TensorView rows = view.slice_rows(2, 4);
  EXPECT_EQ(rows.rows(), 2);
  EXPECT_EQ(rows.data<float>(), data.data() + 8);
  const TensorView part = rows.slice_cols(1, 3);
  EXPECT_FALSE(part.contiguous());
  EXPECT_EQ(part.row<float>(1)[0], 13.0F);
  part.row<float>(1)[0] = -1.0F;
  EXPECT_EQ(data[13], -1.0F);
  EXPECT_TRUE(view.slice_rows(3, 4).slice_cols(1, 2).contiguous());  // a single row always is
  EXPECT_EQ(view.slice_rows(6, 6).rows(), 0);
}

TEST_F(TensorViewTest, ReshapeKeepsElements) {
  const TensorView view(data.data(), DType::kF32, {6, 4});
  EXPECT_EQ(view.reshaped({3, 8}).row<float>(1)[0], 8.0F);
  EXPECT_THROW(view.reshaped({5, 5}), Error);
  EXPECT_THROW(view.slice_cols(0, 2).reshaped({12}), Error);
}

TEST_F(TensorViewTest, RefusesWrongTypesAndRanges) {
  const TensorView view(data.data(), DType::kF32, {6, 4});
  EXPECT_THROW(view.data<double>(), Error);
  EXPECT_THROW(view.slice_rows(5, 7), Error);
  EXPECT_THROW(view.slice_rows(3, 2), Error);
  EXPECT_THROW(view.slice_cols(-1, 2), Error);
  EXPECT_THROW(view.slice_cols(0, 5), Error);
  EXPECT_TRUE(TensorView{}.empty());
  EXPECT_FALSE(view.empty());
}

}  // namespace
}  // namespace lockstep::core
