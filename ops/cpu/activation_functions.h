#pragma once

#include <cmath>

#include "ops/activation.h"
#include "ops/cpu/vector_math.h"

// The pointwise functions as types that loops over elements are instantiated with. A is float or
// double. both(x) gives the value and the derivative from what they share; there are no branches,
// so that the loops vectorise, and NaN passes through.
namespace lockstep::ops::cpu {

template <typename A>
struct ValueAndSlope {
  A value;
  A slope;
};

// x * Phi(x); the derivative is Phi(x) + x * phi(x).
struct Gelu {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    constexpr A kInverseSqrt2 = A(0.70710678118654752440);
    constexpr A kInverseSqrt2Pi = A(0.39894228040143267794);
    const A cumulative = A(0.5) * (A(1) + vector_erf(x * kInverseSqrt2));
    const A density = kInverseSqrt2Pi * vector_exp(A(-0.5) * x * x);
    return {x * cumulative, cumulative + x * density};
  }
};

// 0.5 * x * (1 + tanh(u)), u = sqrt(2/pi) * (x + 0.044715 * x^3). Since 0.5 * (1 + tanh(u)) is
// sigmoid(2u), one exp serves value and derivative, and no digits cancel at negative x.
struct GeluTanh {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    constexpr A kTwiceSqrt2OverPi = A(1.59576912160573071176);
    constexpr A kCubic = A(0.044715);
    const A square = x * x;
    const A twice_u = kTwiceSqrt2OverPi * x * (A(1) + kCubic * square);
    const A s = A(1) / (A(1) + vector_exp(-twice_u));
    const A du = kTwiceSqrt2OverPi * (A(1) + A(3) * kCubic * square);
    // s * (1 - s) is 0 far out, where du may be infinite.
    const A decay = s * (A(1) - s);
    return {x * s, decay == A(0) ? s : s + x * decay * du};
  }
};

struct Relu {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    return {x < A(0) ? A(0) : x, x > A(0) ? A(1) : A(0)};
  }
};

struct LeakyRelu {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    const A slope = x > A(0) ? A(1) : A(0.01);
    return {x * slope, slope};
  }
};

// x above 0, else e^x - 1. e^x - 1 = tanh(x / 2) * (e^x + 1) keeps its digits near 0.
struct Elu {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    const A below = x > A(0) ? A(0) : x;
    const A e = vector_exp(below);
    const A value = vector_tanh(A(0.5) * below) * (e + A(1));
    return {x > A(0) ? x : value, x > A(0) ? A(1) : e};
  }
};

// x * sigmoid(x)
struct Silu {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    const A s = A(1) / (A(1) + vector_exp(-x));
    return {x * s, s * (A(1) + x * (A(1) - s))};
  }
};

struct Tanh {
  template <typename A>
  static ValueAndSlope<A> both(A x) {
    const A y = vector_tanh(x);
    return {y, A(1) - y * y};
  }
};

// Calls g(F{}) with the type of f.
template <typename G>
void visit_activation(ActivationFunction f, G&& g) {
  switch (f) {
    case ActivationFunction::kGelu:
      return g(Gelu{});
    case ActivationFunction::kGeluTanh:
      return g(GeluTanh{});
    case ActivationFunction::kRelu:
      return g(Relu{});
    case ActivationFunction::kLeakyRelu:
      return g(LeakyRelu{});
    case ActivationFunction::kElu:
      return g(Elu{});
    case ActivationFunction::kSilu:
      return g(Silu{});
    case ActivationFunction::kTanh:
      return g(Tanh{});
  }
}

}  // namespace lockstep::ops::cpu
