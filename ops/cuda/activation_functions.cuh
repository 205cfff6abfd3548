#pragma once

#include <cmath>
#include <type_traits>

#include "ops/activation.h"
#include "ops/cuda/op_kernel.cuh"

// The pointwise functions in fp32, each by the formula of ops/cpu/activation_functions.h,
// in as few instructions as keep up with memory: about 16 for one element of 16 bits.
namespace lockstep::ops::cuda {

struct ValueAndSlope {
  float value;
  float slope;
};

// e^x for a normal result.
__device__ inline float natural_exp(float x) {
  constexpr float kLog2E = 1.44269504F;
  return expand_exp2(x * kLog2E);
}

__device__ inline float sigmoid(float x) {
  return approximate_reciprocal(1.0F + natural_exp(-x));
}

// Phi(-a) e^(a^2 / 2) on a >= 0 as a polynomial in t = 1 / (1 + kP a) without a constant, by the
// Remez algorithm. The relative error up to a = 13, from where on Phi(-a) is 0 in fp32, is 1.2e-7;
// for results that are rounded to 16 bits 3.6e-5 is enough.
template <bool kTo16Bits>
__device__ inline float scaled_tail(float a) {
  constexpr float kP = kTo16Bits ? 0.38F : 0.3F;
  const float t = approximate_reciprocal(fmaf(kP, a, 1.0F));
  if constexpr (kTo16Bits) {
    float p = -0.08992840341F;
    p = fmaf(p, t, 0.1888765754F);
    p = fmaf(p, t, 0.09197968449F);
    p = fmaf(p, t, 0.1578294801F);
    return fmaf(p, t, 0.1512251372F) * t;
  }
  float p = 0.03619482204F;
  p = fmaf(p, t, -0.159378179F);
  p = fmaf(p, t, 0.2101181799F);
  p = fmaf(p, t, -0.05716717636F);
  p = fmaf(p, t, 0.130416353F);
  p = fmaf(p, t, 0.09934715677F);
  p = fmaf(p, t, 0.1208455243F);
  return fmaf(p, t, 0.1196232631F) * t;
}

// The normal distribution's tail and its density share one exponential.
template <bool kTo16Bits>
__device__ inline ValueAndSlope gelu(float x) {
  constexpr float kHalfLog2E = 0.72134752F;
  const float e = expand_exp2(x * x * -kHalfLog2E);
  const float tail = e * scaled_tail<kTo16Bits>(fabsf(x));
  const float cumulative = x < 0.0F ? tail : 1.0F - tail;
  return {x * cumulative, fmaf(x, 0.39894228F * e, cumulative)};
}

__device__ inline ValueAndSlope gelu_tanh(float x) {
  constexpr float kTwiceSqrt2OverPi = 1.59576912F;
  constexpr float kCubic = 0.044715F;
  const float square = x * x;
  const float s = sigmoid(x * fmaf(kTwiceSqrt2OverPi * kCubic, square, kTwiceSqrt2OverPi));
  const float du = fmaf(3.0F * kTwiceSqrt2OverPi * kCubic, square, kTwiceSqrt2OverPi);
  // s * (1 - s) is 0 far out, where du may be infinite.
  const float decay = s * (1.0F - s);
  return {x * s, decay == 0.0F ? s : fmaf(x * decay, du, s)};
}

__device__ inline ValueAndSlope elu(float x) {
  const float below = x > 0.0F ? 0.0F : x;
  return {x > 0.0F ? x : expm1f(below), x > 0.0F ? 1.0F : expf(below)};
}

__device__ inline ValueAndSlope silu(float x) {
  const float s = sigmoid(x);
  return {x * s, s * fmaf(x, 1.0F - s, 1.0F)};
}

// Calls g(function) with the function of f, whose results are rounded to T, so that the choice is
// made once for all elements of a thread.
template <typename T, typename G>
__device__ inline void with_activation(ActivationFunction f, G&& g) {
  switch (f) {
    case ActivationFunction::kGelu:
      return g([](float x) { return gelu<!std::is_same_v<T, float>>(x); });
    case ActivationFunction::kGeluTanh:
      return g([](float x) { return gelu_tanh(x); });
    case ActivationFunction::kRelu:
      return g([](float x) { return ValueAndSlope{x < 0.0F ? 0.0F : x, x > 0.0F ? 1.0F : 0.0F}; });
    case ActivationFunction::kLeakyRelu:
      return g([](float x) {
        const float slope = x > 0.0F ? 1.0F : 0.01F;
        return ValueAndSlope{x * slope, slope};
      });
    case ActivationFunction::kElu:
      return g([](float x) { return elu(x); });
    case ActivationFunction::kSilu:
      return g([](float x) { return silu(x); });
    case ActivationFunction::kTanh:
      return g([](float x) {
        const float y = tanhf(x);
        return ValueAndSlope{y, 1.0F - y * y};
      });
  }
}

}  // namespace lockstep::ops::cuda
