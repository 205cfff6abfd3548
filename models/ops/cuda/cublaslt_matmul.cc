#include "models/ops/cuda/cublaslt_matmul.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <compare>
#include <map>
#include <memory>

#include "core/error.h"
#include "models/ops/cuda/bodies.h"
#include "models/ops/cuda/libraries.h"

namespace lockstep::models::ops::cuda {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what Hopper's kernels ask for

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const core::ErrorKind kind = status == CUBLAS_STATUS_ALLOC_FAILED ? core::ErrorKind::kOutOfMemory
                                                                    : core::ErrorKind::kInternal;
  throw core::Error(kind, fmt::format("{}: cuBLASLt status {}: {}", what, static_cast<int>(status),
                                      cublasLtGetStatusString(status)));
}

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

// Descriptors of cuBLASLt end with their owner.
struct DestroyDescriptor {
  void operator()(cublasLtMatmulDescOpaque_t* p) const { cublasLtMatmulDescDestroy(p); }
  void operator()(cublasLtMatrixLayoutOpaque_t* p) const { cublasLtMatrixLayoutDestroy(p); }
  void operator()(cublasLtMatmulPreferenceOpaque_t* p) const { cublasLtMatmulPreferenceDestroy(p); }
};
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, DestroyDescriptor>;
using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, DestroyDescriptor>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, DestroyDescriptor>;

// cuBLASLt's matrices are column-major, so the row-major out[M, N] = op(a) op(b) is asked for as
// out^T[N, M] = op(b)^T op(a)^T: `left` is b, `right` is a, and a row-major matrix read as
// column-major is its transpose already.
struct ProductKey {
  std::int64_t m, n, k;
  std::int64_t stride_a, stride_b, stride_out;
  DType input, output;
  bool transpose_a, transpose_b, bias;
  std::uint32_t align_a, align_b, align_out;  // bytes, powers of two up to 256

  auto operator<=>(const ProductKey&) const = default;
};

std::uint32_t alignment_of(const ConstTensorView& view) {
  const auto address = reinterpret_cast<std::uintptr_t>(view.raw());
  std::uint32_t alignment = 256;
  while (address % alignment != 0)
    alignment /= 2;
  return alignment;
}

std::int64_t stride_of(const ConstTensorView& view) {
  return std::max(view.row_stride(), view.cols());
}

ProductKey key_of(const ConstTensorView& a, Transpose transpose_a, const ConstTensorView& b,
                  Transpose transpose_b, const TensorView& out, bool bias) {
  ProductKey key{};
  key.m = out.rows();
  key.n = out.cols();
  key.k = transpose_a == Transpose::kYes ? a.rows() : a.cols();
  key.stride_a = stride_of(a);
  key.stride_b = stride_of(b);
  key.stride_out = stride_of(out);
  key.input = a.dtype();
  key.output = out.dtype();
  key.transpose_a = transpose_a == Transpose::kYes;
  key.transpose_b = transpose_b == Transpose::kYes;
  key.bias = bias;
  key.align_a = alignment_of(a);
  key.align_b = alignment_of(b);
  key.align_out = alignment_of(out);
  return key;
}

// A product with its algorithm.
struct Plan {
  Operation operation;
  Layout left, right, out;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;
};

template <typename V>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const V& value) {
  check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(value)),
        "describing a product");
}
template <typename V>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const V& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "describing what is wanted of a product");
}

// rows, cols: of the column-major matrix.
Layout make_layout(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(cublasLtMatrixLayoutCreate(&layout, native(dtype), static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(cols), stride),
        "describing a matrix");
  return Layout(layout);
}

Operation make_operation(const ProductKey& key) {
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  Operation operation(made);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (key.bias) {
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, native(key.input));
  }
  return operation;
}

Preference make_preference(const ProductKey& key) {
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "describing what is wanted of a product");
  Preference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_out);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_out);
  // Partial sums of a split k through the workspace, not added where they meet in the result.
  const std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
  return preference;
}

// One cuBLASLt handle and what it has chosen so far.
class CublasLt {
 public:
  CublasLt() { check(cublasLtCreate(&handle_), "opening cuBLASLt"); }
  ~CublasLt() { cublasLtDestroy(handle_); }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  cublasLtHandle_t handle() const { return handle_; }

  // The plan of a product; null when cuBLASLt has no algorithm for it.
  const Plan* plan(const ProductKey& key) {
    const auto known = plans_.find(key);
    if (known != plans_.end()) return known->second.get();
    return plans_.emplace(key, make_plan(key)).first->second.get();
  }

 private:
  std::unique_ptr<Plan> make_plan(const ProductKey& key) const {
    auto plan = std::make_unique<Plan>();
    plan->operation = make_operation(key);
    plan->left = key.transpose_b ? make_layout(key.input, key.k, key.n, key.stride_b)
                                 : make_layout(key.input, key.n, key.k, key.stride_b);
    plan->right = key.transpose_a ? make_layout(key.input, key.m, key.k, key.stride_a)
                                  : make_layout(key.input, key.k, key.m, key.stride_a);
    plan->out = make_layout(key.output, key.n, key.m, key.stride_out);
    const Preference preference = make_preference(key);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan->operation.get(), plan->left.get(), plan->right.get(), plan->out.get(),
        plan->out.get(), preference.get(), 1, &result, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
      return nullptr;
    }
    check(status, "choosing an algorithm for a product");
    plan->algorithm = result.algo;
    plan->workspace = result.workspaceSize;
    return plan;
  }

  cublasLtHandle_t handle_ = nullptr;
  std::map<ProductKey, std::unique_ptr<Plan>> plans_;
};

}  // namespace

void cublaslt_matmul(OpContext& context, ConstTensorView a, Transpose transpose_a,
                     ConstTensorView b, Transpose transpose_b, TensorView out,
                     ConstTensorView bias) {
  const ProductKey key = key_of(a, transpose_a, b, transpose_b, out, !bias.empty());
  auto& library = *static_cast<CublasLt*>(libraries_of(context).cublaslt.get());
  const Plan* plan = key.k > 0 ? library.plan(key) : nullptr;
  // Nothing to sum, an alignment below 16 bytes, or a bias of 16 bits on an fp32 result.
  if (plan == nullptr) return cuda::matmul(context, a, transpose_a, b, transpose_b, out, bias);
  if (key.bias) {
    const void* pointer = bias.raw();
    set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer);
  }
  const float one = 1.0F;
  const float zero = 0.0F;
  check(cublasLtMatmul(library.handle(), plan->operation.get(), &one, b.raw(), plan->left.get(),
                       a.raw(), plan->right.get(), &zero, out.raw(), plan->out.get(), out.raw(),
                       plan->out.get(), &plan->algorithm, context.scratch(plan->workspace),
                       plan->workspace, reinterpret_cast<cudaStream_t>(context.stream().handle())),
        "a product");
}

void* open_cublaslt(OpContext&) {
  return new CublasLt();
}

void close_cublaslt(void* libraries) noexcept {
  delete static_cast<CublasLt*>(libraries);
}

}  // namespace lockstep::models::ops::cuda
