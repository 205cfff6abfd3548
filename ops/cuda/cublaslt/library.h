#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "ops/cuda/cublaslt/product.h"

namespace lockstep::ops::cuda {

// One handle of cuBLASLt and, for every product it has seen, how that one is done. A product is
// decided about when it first comes:
//   Determinism::kRun: as the table kept in the tree says for this GPU and version of the library;
//     without an entry the heuristic's first algorithm, with an epilogue in the same call where
//     that is known to pay (GELU on compute capability 9.0) and in separate steps elsewhere.
//   Determinism::kNone: by timing the heuristic's favourites, and the separate steps, on the real
//     operands: outputs are written several times over, and the host waits. So it cannot be done
//     within the capture of a graph: run a step before capturing one.
class CublasLt {
 public:
  explicit CublasLt(const OpContext& context);
  ~CublasLt() { cublasLtDestroy(handle_); }
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // The same result as the one call, in separate steps; absent where there is but one step.
  using Steps = std::function<void()>;

  // Does the product, or returns false when the caller has to do it in steps.
  bool run(OpContext& context, const ProductKey& key, const ProductOperands& operands,
           const Steps& steps);

  // A line for each product, as it would stand in the table, with a comment that says where the
  // choice comes from and, where it was timed, how long the alternatives took.
  std::string describe() const;

 private:
  struct Entry {
    std::optional<CublasLtProduct> product;  // none: in steps
    Algorithm algorithm;
    std::string origin;  // for describe()
  };

  Entry decide(OpContext& context, const ProductKey& key, const ProductOperands& operands,
               const Steps& steps) const;
  Entry search(OpContext& context, const ProductKey& key, const ProductOperands& operands,
               const Steps& steps) const;

  cublasLtHandle_t handle_ = nullptr;
  std::string gpu_;
  bool gelu_pays_ = false;
  std::map<ProductKey, Entry> entries_;
};

}  // namespace lockstep::ops::cuda
