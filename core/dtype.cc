#include "core/dtype.h"

#include <cstring>
#include <type_traits>

#include "core/check.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace lockstep::core {

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
    case DType::kU16:
      return 2;
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kU8:
      return 1;
  }
  LOCKSTEP_CHECK(false, "unknown dtype {}", static_cast<int>(dtype));
  return 0;
}

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "fp32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "fp16";
    case DType::kF64:
      return "fp64";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
    case DType::kU16:
      return "u16";
    case DType::kU32:
      return "u32";
  }
  return "?";
}

bool is_floating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 ||
         dtype == DType::kF64;
}

DType accumulate_dtype(DType dtype) {
  return dtype == DType::kF64 ? DType::kF64 : DType::kF32;
}

void fail_not_floating(DType dtype) {
  throw Error(ErrorKind::kInternal,
              fmt::format("expected a floating-point dtype, found {}", name_of(dtype)));
}

void convert(const float* from, float* to, std::size_t n) {
  if (from != to) std::memcpy(to, from, n * sizeof(float));
}

void convert(const double* from, double* to, std::size_t n) {
  if (from != to) std::memcpy(to, from, n * sizeof(double));
}

void convert(const BFloat16* from, float* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    to[i] = static_cast<float>(from[i]);
}

void convert(const float* from, BFloat16* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i)
    to[i] = BFloat16(from[i]);
}

void convert(const Float16* from, float* to, std::size_t n) {
  std::size_t i = 0;
#if defined(__F16C__)  // the compiler does not vectorise _Float16 conversions by itself
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
#endif
  for (; i < n; ++i)
    to[i] = static_cast<float>(from[i]);
}

void convert(const float* from, Float16* to, std::size_t n) {
  std::size_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i half =
        _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
#endif
  for (; i < n; ++i)
    to[i] = Float16(from[i]);
}

namespace {

template <typename From, typename To>
void convert_typed(const From* from, To* to, std::size_t n) {
  if constexpr (std::is_same_v<From, To>) {
    if (from != to) std::memcpy(to, from, n * sizeof(To));
  } else if constexpr (requires { convert(from, to, n); }) {
    convert(from, to, n);
  } else {
    // fp64 on one side, or two different 16-bit types: through the wider of the two arithmetic
    // types.
    for (std::size_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<To, double>) {
        to[i] = static_cast<double>(static_cast<float>(from[i]));
      } else {
        to[i] = static_cast<To>(static_cast<float>(from[i]));
      }
    }
  }
}

}  // namespace

void convert(DType from_dtype, const void* from, DType to_dtype, void* to, std::size_t n) {
  visit_floating(from_dtype, [&](auto from_tag) {
    visit_floating(to_dtype, [&](auto to_tag) {
      convert_typed(static_cast<const decltype(from_tag)*>(from),
                    static_cast<decltype(to_tag)*>(to), n);
    });
  });
}

}  // namespace lockstep::core
