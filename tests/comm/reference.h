#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "comm/communicator.h"
#include "core/dtype.h"

// What collectives should give, computed element by element without any of the code under test.
namespace lockstep::comm::testing {

template <typename T>
struct ReferenceWide {
  using type = T;
};
template <>
struct ReferenceWide<core::BFloat16> {
  using type = float;
};
template <>
struct ReferenceWide<core::Float16> {
  using type = float;
};

// Element `index` of the input of `rank`: any sign, magnitudes from 2^-6 to 2^6, so that sums round
// and their order shows.
template <typename T>
T input_value(int rank, std::size_t index, std::uint64_t salt) {
  std::uint64_t z = (static_cast<std::uint64_t>(rank) + 1) * 0x9e3779b97f4a7c15ULL +
                    index * 0xbf58476d1ce4e5b9ULL + salt * 0x94d049bb133111ebULL;
  z ^= z >> 31;
  z *= 0xd6e8feb86659fd93ULL;
  z ^= z >> 32;
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(z);
  } else {
    const double unit = static_cast<double>(z & 0xffffff) / 16777216.0 - 0.5;
    const double value = unit * static_cast<double>(1U << ((z >> 24) % 13)) / 64.0;
    if constexpr (std::is_same_v<T, double>) {
      return value;
    } else {
      return static_cast<T>(static_cast<float>(value));
    }
  }
}

template <typename T>
std::vector<T> input_of(int rank, std::size_t n, std::uint64_t salt) {
  std::vector<T> values(n);
  for (std::size_t i = 0; i < n; ++i)
    values[i] = input_value<T>(rank, i, salt);
  return values;
}

template <typename W>
W reference_combine(ReduceOp op, W a, W b) {
  if (op == ReduceOp::kMax) return a < b ? b : a;
  if (op == ReduceOp::kMin) return b < a ? b : a;
  if constexpr (std::is_integral_v<W>) {
    return static_cast<W>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  } else {
    return a + b;
  }
}

// Element `index` of the reduction over ranks; base: the starting value, or null.
template <typename T, typename O>
O reference_reduce(int world_size, std::size_t index, std::uint64_t salt, ReduceOp op,
                   const O* base) {
  using W = typename ReferenceWide<T>::type;
  W sum{};
  bool first = base == nullptr;
  if (!first) sum = static_cast<W>(*base);
  for (int r = 0; r < world_size; ++r) {
    const W value = static_cast<W>(input_value<T>(r, index, salt));
    sum = first ? value : reference_combine<W>(op, sum, value);
    first = false;
  }
  return static_cast<O>(sum);
}

// Whether `value` can be a sum of the ranks' elements in any order, rounded to T after each
// addition.
template <typename T>
bool close_to_sum(T value, int world_size, std::size_t index, std::uint64_t salt) {
  if constexpr (std::is_integral_v<T>) {
    return value == reference_reduce<T, T>(world_size, index, salt, ReduceOp::kSum, nullptr);
  } else {
    double sum = 0.0;
    double magnitude = 0.0;
    for (int r = 0; r < world_size; ++r) {
      const T element = input_value<T>(r, index, salt);
      const double wide = static_cast<double>(static_cast<core::AccumulateT<T>>(element));
      sum += wide;
      magnitude += std::abs(wide);
    }
    constexpr int kBits = std::is_same_v<T, double>           ? 52
                          : std::is_same_v<T, float>          ? 23
                          : std::is_same_v<T, core::BFloat16> ? 7
                                                              : 10;
    const double unit = std::ldexp(1.0, -kBits) * 0.5;  // of one rounding
    const double got = static_cast<double>(static_cast<core::AccumulateT<T>>(value));
    return std::abs(got - sum) <= 1.01 * unit * world_size * magnitude + std::ldexp(1.0, -24);
  }
}

template <typename T>
bool same_bits(const T* a, const T* b, std::size_t n) {
  return n == 0 || std::memcmp(a, b, n * sizeof(T)) == 0;
}

}  // namespace lockstep::comm::testing
