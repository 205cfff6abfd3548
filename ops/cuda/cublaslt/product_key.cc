#include "ops/cuda/cublaslt/product_key.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::ops::cuda {

namespace {

const char* name_of(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kNone:
      return "";
    case Epilogue::kBias:
      return " bias";
    case Epilogue::kGelu:
      return " gelu";
    case Epilogue::kGeluBias:
      return " gelu+bias";
    case Epilogue::kGeluGradient:
      return " dgelu";
    case Epilogue::kGeluBiasGradient:
      return " dgelu+dbias";
    case Epilogue::kBiasGradient:
      return " dbias";
  }
  return " unknown";
}

}  // namespace

std::uint32_t alignment_of(const void* address) {
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  std::uint32_t alignment = kMostAlignment;
  while (value % alignment != 0)
    alignment /= 2;
  return alignment;
}

std::string text_of(const ProductKey& key) {
  std::string text = fmt::format("{}>{} m={} n={} k={} a={}{} b={}{} out={}",
                                 core::name_of(key.input), core::name_of(key.output), key.m, key.n,
                                 key.k, key.stride_a, key.transpose_a ? "^T" : "", key.stride_b,
                                 key.transpose_b ? "^T" : "", key.stride_out);
  if (key.stride_aux > 0) text += fmt::format(" aux={}", key.stride_aux);
  return text + name_of(key.epilogue);
}

bool begins_on_16_bytes(const ProductKey& key) {
  return std::min({key.align_a, key.align_b, key.align_out, key.align_aux, key.align_vector}) >= 16;
}

}  // namespace lockstep::ops::cuda
