#pragma once

#include <compare>
#include <cstdint>
#include <string>

#include "core/dtype.h"

// A matrix product as a library of them sees it, apart from where its operands lie. Pure data: it
// knows nothing of CUDA.
namespace lockstep::ops::cuda {

// What the library does in the same pass over memory. Vectors are of the inputs' dtype.
enum class Epilogue : std::uint8_t {
  kNone,
  kBias,              // out = product + bias
  kGelu,              // aux = product; out = gelu_tanh(aux)
  kGeluBias,          // aux = product + bias; out = gelu_tanh(aux)
  kGeluGradient,      // out = product * gelu_tanh'(aux)
  kGeluBiasGradient,  // the same; vector = column sums of out
  kBiasGradient       // out = product; vector = column sums of a^T's rows, so of a's columns
};

struct ProductKey {
  // out[m, n] = op(a)[m, k] op(b)[k, n], row-major, rows so many elements apart
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t stride_a = 0;
  std::int64_t stride_b = 0;
  std::int64_t stride_out = 0;
  std::int64_t stride_aux = 0;             // 0: no aux
  core::DType input = core::DType::kF32;   // of a, b, aux and vectors
  core::DType output = core::DType::kF32;  // of out
  bool transpose_a = false;                // a is [k, m]
  bool transpose_b = false;                // b is [n, k]
  Epilogue epilogue = Epilogue::kNone;
  // Bytes that addresses are a multiple of: powers of two, kMostAlignment at most and where there
  // is no operand.
  std::uint32_t align_a = 0;
  std::uint32_t align_b = 0;
  std::uint32_t align_out = 0;
  std::uint32_t align_aux = 0;
  std::uint32_t align_vector = 0;

  auto operator<=>(const ProductKey&) const = default;
};

// What every slot of the model's memory has; no kernel is known to ask for more than 16.
inline constexpr std::uint32_t kMostAlignment = 64;
std::uint32_t alignment_of(const void* address);

// What an entry of the table of algorithms is found by: everything but the alignments.
//   "bf16>fp32 m=65536 n=50257 k=768 a=768 b=768^T out=50304"
//   "bf16>bf16 m=65536 n=3072 k=768 a=768 b=768^T out=3072 aux=3072 gelu+bias"
std::string text_of(const ProductKey& key);

// Entries of the table hold for operands that all begin on 16 bytes.
bool begins_on_16_bytes(const ProductKey& key);

}  // namespace lockstep::ops::cuda
