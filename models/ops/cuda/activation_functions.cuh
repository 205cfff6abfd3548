#pragma once

#include <cmath>

#include "models/ops/activation.h"
#include "models/ops/cuda/op_kernel.cuh"

// The pointwise functions in fp32, each by the formula of models/ops/cpu/activation_functions.h.
namespace lockstep::models::ops::cuda {

struct ValueAndSlope {
  float value;
  float slope;
};

__device__ inline ValueAndSlope gelu(float x) {
  const float cumulative = 0.5F * (1.0F + erff(x * 0.70710678F));
  const float density = 0.39894228F * expf(-0.5F * x * x);
  return {x * cumulative, cumulative + x * density};
}

__device__ inline ValueAndSlope gelu_tanh(float x) {
  constexpr float kTwiceSqrt2OverPi = 1.59576912F;
  constexpr float kCubic = 0.044715F;
  const float square = x * x;
  const float twice_u = kTwiceSqrt2OverPi * x * (1.0F + kCubic * square);
  const float s = 1.0F / (1.0F + expf(-twice_u));
  const float du = kTwiceSqrt2OverPi * (1.0F + 3.0F * kCubic * square);
  // s * (1 - s) is 0 far out, where du may be infinite.
  const float decay = s * (1.0F - s);
  return {x * s, decay == 0.0F ? s : s + x * decay * du};
}

__device__ inline ValueAndSlope elu(float x) {
  const float below = x > 0.0F ? 0.0F : x;
  return {x > 0.0F ? x : expm1f(below), x > 0.0F ? 1.0F : expf(below)};
}

__device__ inline ValueAndSlope silu(float x) {
  const float s = 1.0F / (1.0F + expf(-x));
  return {x * s, s * (1.0F + x * (1.0F - s))};
}

// Calls g(function) with the function of f, so that the choice is made once for a piece.
template <typename G>
__device__ inline void with_activation(ActivationFunction f, G&& g) {
  switch (f) {
    case ActivationFunction::kGelu:
      return g([](float x) { return gelu(x); });
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

}  // namespace lockstep::models::ops::cuda
