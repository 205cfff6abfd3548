#include "core/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/error.h"

namespace lockstep::core {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

BFloat16 bf16_of_bits(std::uint32_t bits) {
  BFloat16 value;
  value.bits = static_cast<std::uint16_t>(bits);
  return value;
}

Float16 f16_of_bits(std::uint32_t bits) {
  return std::bit_cast<Float16>(static_cast<std::uint16_t>(bits));
}

std::uint16_t bits_of(BFloat16 value) {
  return value.bits;
}
std::uint16_t bits_of(Float16 value) {
  return std::bit_cast<std::uint16_t>(value);
}

// Every pattern, through fp32 and back, must come out as it went in; NaN only as some NaN.
template <typename T, typename FromBits>
void expect_round_trip(FromBits from_bits) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const T value = from_bits(bits);
    const auto wide = static_cast<float>(value);
    const T back(wide);
    if (std::isnan(wide)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    } else {
      ASSERT_EQ(bits_of(back), bits) << bits;
    }
  }
}

TEST(BFloat16, EveryPatternSurvivesARoundTrip) {
  expect_round_trip<BFloat16>(bf16_of_bits);
}

TEST(Float16, EveryPatternSurvivesARoundTrip) {
  expect_round_trip<Float16>(f16_of_bits);
}

// Between each finite value and the next: just below, at, and just above the middle.
template <typename T, typename FromBits>
void expect_nearest_even(FromBits from_bits, std::uint32_t infinity) {
  for (std::uint32_t bits = 0; bits + 1 < infinity; ++bits) {
    const auto low = static_cast<float>(from_bits(bits));
    const auto high = static_cast<float>(from_bits(bits + 1));
    const float middle = low + (high - low) / 2.0F;
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(bits_of(T(middle)), even) << bits;
    ASSERT_EQ(bits_of(T(std::nextafter(middle, 0.0F))), bits) << bits;
    ASSERT_EQ(bits_of(T(std::nextafter(middle, kInf))), bits + 1) << bits;
    ASSERT_EQ(bits_of(T(-middle)), even | 0x8000U) << bits;
  }
}

TEST(BFloat16, RoundsToNearestTiesToEven) {
  expect_nearest_even<BFloat16>(bf16_of_bits, 0x7f80);
}

TEST(Float16, RoundsToNearestTiesToEven) {
  expect_nearest_even<Float16>(f16_of_bits, 0x7c00);
}

TEST(BFloat16, Extremes) {
  EXPECT_EQ(BFloat16(kInf).bits, 0x7f80);
  EXPECT_EQ(BFloat16(-kInf).bits, 0xff80);
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  // a NaN whose payload lies in the lower half only must not turn into infinity
  const auto low_payload = std::bit_cast<float>(0x7f800001U);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(low_payload))));
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(std::bit_cast<float>(0xffffffffU)))));
}

TEST(Float16, Extremes) {
  EXPECT_EQ(bits_of(Float16(65504.0F)), 0x7bff);
  EXPECT_EQ(bits_of(Float16(65519.0F)), 0x7bff);
  EXPECT_EQ(bits_of(Float16(65520.0F)), 0x7c00);
  EXPECT_EQ(bits_of(Float16(0x1p-24F)), 1);
  EXPECT_EQ(bits_of(Float16(0x1p-25F)), 0);  // a tie, to even
  EXPECT_TRUE(std::isnan(static_cast<float>(Float16(kNan))));
}

// The bulk conversions take vector paths: every pattern, at every tail length.
template <typename T>
void expect_bulk_equals_scalar() {
  std::vector<float> wide;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    wide.push_back(std::bit_cast<float>(bits << 16 | (bits * 2654435761U >> 16)));
    wide.push_back(static_cast<float>(bits) * 1.0009765F - 100.0F);
  }
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8},
                              std::size_t{33}, wide.size() - 3, wide.size()}) {
    std::vector<T> narrow(n);
    convert(wide.data(), narrow.data(), n);
    std::vector<float> back(n);
    convert(narrow.data(), back.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      const T expected(wide[i]);
      if (std::isnan(wide[i])) {
        ASSERT_TRUE(std::isnan(back[i])) << i;
      } else {
        ASSERT_EQ(bits_of(narrow[i]), bits_of(expected)) << i;
        ASSERT_EQ(back[i], static_cast<float>(expected)) << i;
      }
    }
  }
}

TEST(Convert, BulkEqualsScalar) {
  expect_bulk_equals_scalar<BFloat16>();
  expect_bulk_equals_scalar<Float16>();
}

TEST(Convert, ByDTypeConvertsEveryFloatingPair) {
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64};
  const std::vector<double> values = {0.0, 1.0, -2.5, 96.0, -0.375};  // exact in all of them
  for (const DType from : dtypes) {
    for (const DType to : dtypes) {
      std::vector<std::byte> a(values.size() * size_of(from));
      std::vector<std::byte> b(values.size() * size_of(to));
      std::vector<double> back(values.size());
      convert(DType::kF64, values.data(), from, a.data(), values.size());
      convert(from, a.data(), to, b.data(), values.size());
      convert(to, b.data(), DType::kF64, back.data(), values.size());
      EXPECT_EQ(back, values) << name_of(from) << " to " << name_of(to);
    }
  }
  float out = 0.0F;
  const std::int32_t integer = 1;
  EXPECT_THROW(convert(DType::kI32, &integer, DType::kF32, &out, 1), Error);
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(size_of(DType::kF64), 8U);
  EXPECT_EQ(size_of(DType::kF32), 4U);
  EXPECT_EQ(size_of(DType::kBF16), 2U);
  EXPECT_EQ(size_of(DType::kU8), 1U);
  EXPECT_EQ(name_of(DType::kBF16), "bf16");
  EXPECT_EQ(accumulate_dtype(DType::kF16), DType::kF32);
  EXPECT_EQ(accumulate_dtype(DType::kF64), DType::kF64);
  EXPECT_FALSE(is_floating(DType::kI32));
}

}  // namespace
}  // namespace lockstep::core
