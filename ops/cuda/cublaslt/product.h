#pragma once

#include <cublasLt.h>

#include <memory>
#include <optional>
#include <vector>

#include "ops/cuda/cublaslt/matmul_algorithms.h"
#include "ops/cuda/cublaslt/product_key.h"
#include "ops/op_context.h"

namespace lockstep::ops::cuda {

// Throws Error naming `what` and cuBLASLt's words unless status is a success.
void check_cublaslt(cublasStatus_t status, const char* what);

// Where the operands of a product lie. vector: the bias, or the gradient of one.
struct ProductOperands {
  const void* a = nullptr;
  const void* b = nullptr;
  void* out = nullptr;
  void* vector = nullptr;
  void* aux = nullptr;
};

struct Algorithm {
  cublasLtMatmulAlgo_t choice{};
  std::size_t workspace = 0;  // bytes
};

// A product as cuBLASLt describes it: fp32 in fp32 (no TF32), 16 bits with sums in fp32.
class CublasLtProduct {
 public:
  // Alignments are those of the operands, pointers are set by every launch().
  CublasLtProduct(cublasLtHandle_t handle, const ProductKey& key, const ProductOperands& operands);

  // The heuristic's algorithms, at most `most`, its favourite first; none when it has none. Partial
  // sums of a split k go through the workspace, so their order is fixed.
  std::vector<Algorithm> candidates(int most) const;

  // An algorithm that was kept, if it can do this product on this device; else nothing.
  std::optional<Algorithm> restored(const ProductChoice& choice) const;

  // On the context's stream. Not every algorithm that is offered runs.
  cublasStatus_t launch(OpContext& context, const Algorithm& algorithm,
                        const ProductOperands& operands) const;

 private:
  // Descriptors of cuBLASLt end with their owner.
  struct Destroy {
    void operator()(cublasLtMatmulDescOpaque_t* p) const { cublasLtMatmulDescDestroy(p); }
    void operator()(cublasLtMatrixLayoutOpaque_t* p) const { cublasLtMatrixLayoutDestroy(p); }
  };
  using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
  using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;

  static Layout make_layout(core::DType dtype, std::int64_t rows, std::int64_t cols,
                            std::int64_t stride);
  void describe_epilogue(const ProductOperands& operands);
  template <typename V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& value) const;

  cublasLtHandle_t handle_;
  ProductKey key_;
  Operation operation_;
  Layout left_, right_, out_;
};

// What an algorithm is made of, for people: "id 66, tile 21, stages 36, split 1, cluster 3".
std::string describe(const cublasLtMatmulAlgo_t& algorithm);

ProductChoice choice_of(const Algorithm& algorithm);

}  // namespace lockstep::ops::cuda
