#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "ops/cuda/cublaslt/product_key.h"

// The table of algorithms for matrix products that is kept in the tree, so that runs whose bits may
// not depend on timing still use what timing once found.
namespace lockstep::ops::cuda {

// How a product is done: in one call by an algorithm of cuBLASLt, or with its epilogue in separate
// steps. `algorithm` is a cublasLtMatmulAlgo_t as it lies in memory, which cuBLASLt allows to be
// stored and restored with the same version of the library.
struct ProductChoice {
  bool one_call = true;
  std::array<std::uint64_t, 8> algorithm{};

  bool operator==(const ProductChoice&) const = default;
};

// An entry: for this GPU (its name in full), this version of cuBLASLt (130100) and this product
// (text_of).
struct AlgorithmEntry {
  std::string_view gpu;
  std::size_t cublaslt = 0;
  std::string_view product;
  ProductChoice choice;
};

// Filled by bench/matmul_algorithms on the GPUs that it names.
std::span<const AlgorithmEntry> algorithm_table();

// The choice for a product, or null: no entry fits, or an operand does not begin on 16 bytes.
const ProductChoice* find_choice(std::span<const AlgorithmEntry> table, std::string_view gpu,
                                 std::size_t cublaslt, const ProductKey& key);

// The line of C++ that puts a choice into the table, without its end of line.
std::string table_line(std::string_view gpu, std::size_t cublaslt, const ProductKey& key,
                       const ProductChoice& choice);

}  // namespace lockstep::ops::cuda
