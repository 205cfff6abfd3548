#include "ops/cuda/cublaslt/product.h"

#include <fmt/format.h>

#include <bit>

#include "core/error.h"

namespace lockstep::ops::cuda {

using core::DType;

namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what Hopper's kernels ask for

cudaDataType_t native(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("ops on a GPU compute in fp32, bf16 or fp16, not in {}",
                                    core::name_of(dtype)));
  }
}

cublasLtEpilogue_t native(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kNone:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::kBias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::kGelu:
      return CUBLASLT_EPILOGUE_GELU_AUX;
    case Epilogue::kGeluBias:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::kGeluGradient:
      return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::kGeluBiasGradient:
      return CUBLASLT_EPILOGUE_DGELU_BGRAD;
    case Epilogue::kBiasGradient:
      return CUBLASLT_EPILOGUE_BGRADB;  // our a is its second factor
  }
  throw core::Error(core::ErrorKind::kInternal, "unknown epilogue of a product");
}

struct DestroyPreference {
  void operator()(cublasLtMatmulPreferenceOpaque_t* p) const { cublasLtMatmulPreferenceDestroy(p); }
};
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyPreference>;

// cuBLASLt's first factor is our b.
Preference make_preference(const ProductKey& key) {
  cublasLtMatmulPreference_t made = nullptr;
  check_cublaslt(cublasLtMatmulPreferenceCreate(&made), "describing what is wanted of a product");
  Preference preference(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_cublaslt(
        cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "describing what is wanted of a product");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_out);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_out);
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  return preference;
}

// 0 where the library does not tell.
template <typename V>
V capability(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoCapAttributes_t attribute) {
  V value{};
  std::size_t written = 0;
  const auto status =
      cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, &value, sizeof(value), &written);
  return status == CUBLAS_STATUS_SUCCESS ? value : V{};
}

bool aligned_enough(const cublasLtMatmulAlgo_t& algorithm, const ProductKey& key) {
  const auto needs = [&](cublasLtMatmulAlgoCapAttributes_t attribute) {
    return capability<std::uint32_t>(algorithm, attribute);
  };
  return needs(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES) <= key.align_b &&
         needs(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES) <= key.align_a &&
         needs(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES) <= key.align_out &&
         needs(CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES) <= key.align_out;
}

}  // namespace

void check_cublaslt(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const core::ErrorKind kind = status == CUBLAS_STATUS_ALLOC_FAILED ? core::ErrorKind::kOutOfMemory
                                                                    : core::ErrorKind::kInternal;
  throw core::Error(kind, fmt::format("{}: cuBLASLt status {}: {}", what, static_cast<int>(status),
                                      cublasLtGetStatusString(status)));
}

// cuBLASLt's matrices are column-major, so the row-major out[M, N] = op(a) op(b) is asked for as
// out^T[N, M] = op(b)^T op(a)^T: `left` is b, `right` is a, and a row-major matrix read as
// column-major is its transpose already.
CublasLtProduct::CublasLtProduct(cublasLtHandle_t handle, const ProductKey& key,
                                 const ProductOperands& operands)
    : handle_(handle), key_(key) {
  cublasLtMatmulDesc_t made = nullptr;
  check_cublaslt(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "describing a product");
  operation_.reset(made);
  set(CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  describe_epilogue(operands);
  left_ = key.transpose_b ? make_layout(key.input, key.k, key.n, key.stride_b)
                          : make_layout(key.input, key.n, key.k, key.stride_b);
  right_ = key.transpose_a ? make_layout(key.input, key.m, key.k, key.stride_a)
                           : make_layout(key.input, key.k, key.m, key.stride_a);
  out_ = make_layout(key.output, key.n, key.m, key.stride_out);
}

// rows, cols: of the column-major matrix.
CublasLtProduct::Layout CublasLtProduct::make_layout(DType dtype, std::int64_t rows,
                                                     std::int64_t cols, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublaslt(
      cublasLtMatrixLayoutCreate(&layout, native(dtype), static_cast<std::uint64_t>(rows),
                                 static_cast<std::uint64_t>(cols), stride),
      "describing a matrix");
  return Layout(layout);
}

template <typename V>
void CublasLtProduct::set(cublasLtMatmulDescAttributes_t attribute, const V& value) const {
  check_cublaslt(cublasLtMatmulDescSetAttribute(operation_.get(), attribute, &value, sizeof(value)),
                 "describing a product");
}

// The heuristic reads the alignment of vector and aux from the pointers themselves.
void CublasLtProduct::describe_epilogue(const ProductOperands& operands) {
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, native(key_.epilogue));
  if (operands.vector != nullptr) {
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, native(key_.input));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.vector);
  }
  if (operands.aux != nullptr) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, native(key_.input));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, key_.stride_aux);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux);
  }
}

std::vector<Algorithm> CublasLtProduct::candidates(int most) const {
  const Preference preference = make_preference(key_);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, operation_.get(), left_.get(), right_.get(), out_.get(), out_.get(),
      preference.get(), most, results.data(), &found);
  // An epilogue that it does not have for these dtypes may also be an invalid value to it.
  const bool epilogue_refused =
      status == CUBLAS_STATUS_INVALID_VALUE && key_.epilogue != Epilogue::kNone;
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || epilogue_refused) return {};
  check_cublaslt(status, "choosing an algorithm for a product");
  std::vector<Algorithm> algorithms;
  results.resize(static_cast<std::size_t>(found));
  for (const auto& result : results)
    if (result.state == CUBLAS_STATUS_SUCCESS)
      algorithms.push_back({result.algo, result.workspaceSize});
  return algorithms;
}

std::optional<Algorithm> CublasLtProduct::restored(const ProductChoice& choice) const {
  static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(choice.algorithm));
  const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(choice.algorithm);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle_, operation_.get(), left_.get(), right_.get(), out_.get(),
                              out_.get(), &algorithm, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.state != CUBLAS_STATUS_SUCCESS) return {};
  if (result.workspaceSize > kWorkspaceBytes || !aligned_enough(algorithm, key_)) return {};
  return Algorithm{algorithm, result.workspaceSize};
}

cublasStatus_t CublasLtProduct::launch(OpContext& context, const Algorithm& algorithm,
                                       const ProductOperands& operands) const {
  if (operands.vector != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.vector);
  if (operands.aux != nullptr) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux);
  const float one = 1.0F;
  const float zero = 0.0F;
  return cublasLtMatmul(handle_, operation_.get(), &one, operands.b, left_.get(), operands.a,
                        right_.get(), &zero, operands.out, out_.get(), operands.out, out_.get(),
                        &algorithm.choice, context.scratch(algorithm.workspace),
                        algorithm.workspace,
                        reinterpret_cast<cudaStream_t>(context.stream().handle()));
}

std::string describe(const cublasLtMatmulAlgo_t& algorithm) {
  struct Part {
    const char* name;
    cublasLtMatmulAlgoConfigAttributes_t attribute;
    std::size_t bytes;
  };
  constexpr Part kParts[] = {
      {"id", CUBLASLT_ALGO_CONFIG_ID, sizeof(std::int32_t)},
      {"tile", CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(std::uint32_t)},
      {"stages", CUBLASLT_ALGO_CONFIG_STAGES_ID, sizeof(std::uint32_t)},
      {"split", CUBLASLT_ALGO_CONFIG_SPLITK_NUM, sizeof(std::int32_t)},
      {"swizzle", CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, sizeof(std::uint32_t)},
      {"custom", CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, sizeof(std::uint32_t)},
      {"inner", CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, sizeof(std::uint16_t)},
      {"cluster", CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, sizeof(std::uint16_t)}};
  std::string text;
  for (const Part& part : kParts) {
    std::uint32_t value = 0;
    std::size_t written = 0;
    if (cublasLtMatmulAlgoConfigGetAttribute(&algorithm, part.attribute, &value, part.bytes,
                                             &written) != CUBLAS_STATUS_SUCCESS)
      continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", part.name, value);
  }
  return text;
}

ProductChoice choice_of(const Algorithm& algorithm) {
  return {true, std::bit_cast<std::array<std::uint64_t, 8>>(algorithm.choice)};
}

}  // namespace lockstep::ops::cuda
