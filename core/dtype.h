#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lockstep::core {

// Element types of tensors, of token files and of the wire.
enum class DType : std::uint8_t { kF32, kBF16, kF16, kF64, kI32, kI64, kU8, kU16, kU32 };

std::size_t size_of(DType dtype);       // bytes of one element
std::string_view name_of(DType dtype);  // "fp32", "bf16", "fp16", "fp64", "i32", ...
bool is_floating(DType dtype);

// bfloat16 storage: the upper half of an fp32. Conversion rounds to nearest even; NaN stays NaN
// (quiet).
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
    const std::uint32_t quiet = (u >> 16) | 0x40U;
    bits = static_cast<std::uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

// IEEE half storage. Conversion rounds to nearest even; above 65504 (+ half a unit) it becomes inf,
// so that an overflow in fp16 training is a real one.
struct Float16 {
  _Float16 value = 0;  // not {}: nvcc hands that to the host compiler as a literal it lacks

  Float16() = default;
  explicit Float16(float v) : value(static_cast<_Float16>(v)) {}
  explicit operator float() const { return static_cast<float>(value); }
};
static_assert(sizeof(BFloat16) == 2 && sizeof(Float16) == 2);

// The DType of a C++ element type, at compile time.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<std::uint16_t> {
  static constexpr DType value = DType::kU16;
};
template <>
struct DTypeOf<std::uint32_t> {
  static constexpr DType value = DType::kU32;
};

// The type arithmetic is done in: double for double, float for everything else.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using AccumulateT = typename Accumulate<T>::type;

DType accumulate_dtype(DType dtype);  // kF64 for kF64, else kF32

// Calls f(T{}) with the C++ type of a floating dtype: fp32, bf16, fp16, fp64. Throws on others.
template <typename F>
decltype(auto) visit_floating(DType dtype, F&& f);

[[noreturn]] void fail_not_floating(DType dtype);

template <typename F>
decltype(auto) visit_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kBF16:
      return f(BFloat16{});
    case DType::kF16:
      return f(Float16{});
    case DType::kF64:
      return f(double{});
    default:
      fail_not_floating(dtype);
  }
}

// Bulk conversions, vectorised. n elements; source and target do not overlap (same type: may be
// equal).
void convert(const float* from, float* to, std::size_t n);
void convert(const BFloat16* from, float* to, std::size_t n);
void convert(const Float16* from, float* to, std::size_t n);
void convert(const double* from, double* to, std::size_t n);
void convert(const float* from, BFloat16* to, std::size_t n);
void convert(const float* from, Float16* to, std::size_t n);

// The same by dtype, for any pair of floating types (fp64 goes through double or float as it must).
void convert(DType from_dtype, const void* from, DType to_dtype, void* to, std::size_t n);

}  // namespace lockstep::core
