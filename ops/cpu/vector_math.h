#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// exp, tanh and erf that compilers vectorise when they stand in a plain loop: no branches, no
// tables, no calls. fp32 is within 2 units in the last place of the exact value and right at the
// extremes; NaN stays NaN. The fp64 forms are the standard library's: they serve gradient checks,
// not training. Polynomials: interpolation at Chebyshev nodes, with the relative error that is
// noted.
namespace lockstep::ops::cpu {

// e^x: 0 from x = -104 down (denormal results are kept), inf above 88.7229.
inline float vector_exp(float x) {
  constexpr float kLog2E = 1.44269504F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  x = x > 89.0F ? 89.0F : x;  // written so that a NaN passes
  x = x < -105.0F ? -105.0F : x;
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  // (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, error 7.9e-9
  float p = 1.392625083e-3F;
  p = p * r + 8.363232884e-3F;
  p = p * r + 4.166655421e-2F;
  p = p * r + 1.666657667e-1F;
  p = p * r + 0.5F;
  p = p * (r * r) + r + 1.0F;
  // 2^n in two factors, because n reaches 128 and -151, beyond one exponent
  const std::int32_t exponent =
      std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(kRound);
  const std::int32_t half = exponent >> 1;
  const auto power_of_two = [](std::int32_t e) {
    return std::bit_cast<float>((static_cast<std::uint32_t>(e) + 127U) << 23);
  };
  return p * power_of_two(half) * power_of_two(exponent - half);
}

inline double vector_exp(double x) {
  return std::exp(x);
}

// tanh(x), odd to the bit.
inline float vector_tanh(float x) {
  const float t = std::fabs(x);
  const float s = x * x;
  // (tanh(t) / t - 1) / t^2 on t < 0.65, error 1e-9
  float p = 2.214902743e-3F;
  p = p * s - 8.272456733e-3F;
  p = p * s + 2.174618709e-2F;
  p = p * s - 5.395634940e-2F;
  p = p * s + 1.333329075e-1F;
  p = p * s - 3.333333308e-1F;
  const float near = t + t * (s * p);
  const float far = 1.0F - 2.0F / (vector_exp(2.0F * t) + 1.0F);
  return std::copysign(t < 0.65F ? near : far, x);
}

inline double vector_tanh(double x) {
  return std::tanh(x);
}

// erf(x), odd to the bit.
inline float vector_erf(float x) {
  const float t = std::fabs(x);
  const float s = x * x;
  // erf(t) / t - 1 on t < 0.93, error 5e-10
  float p = 8.334718615e-5F;
  p = p * s - 8.134709332e-4F;
  p = p * s + 5.200368587e-3F;
  p = p * s - 2.685915147e-2F;
  p = p * s + 1.128369152e-1F;
  p = p * s - 3.761263352e-1F;
  p = p * s + 1.283791666e-1F;
  const float near = t + t * p;
  // log(1 - erf(t)) on 0.92 < t < 3.95, error of erf 3.4e-9; from 3.93 on erf is 1 in fp32
  const float u = t > 3.95F ? 3.95F : t;
  float q = 1.660596338e-6F;
  q = q * u - 4.649336271e-5F;
  q = q * u + 6.002250179e-4F;
  q = q * u - 4.774377459e-3F;
  q = q * u + 2.645941518e-2F;
  q = q * u - 1.101405594e-1F;
  q = q * u - 6.317695145e-1F;
  q = q * u - 1.130261783F;
  q = q * u + 3.259053620e-4F;
  const float far = 1.0F - vector_exp(q);
  return std::copysign(t < 0.93F ? near : far, x);
}

inline double vector_erf(double x) {
  return std::erf(x);
}

}  // namespace lockstep::ops::cpu
