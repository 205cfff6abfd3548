#include "ops/cuda/cublaslt/matmul_algorithms.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace lockstep::ops::cuda {

const ProductChoice* find_choice(std::span<const AlgorithmEntry> table, std::string_view gpu,
                                 std::size_t cublaslt, const ProductKey& key) {
  if (!begins_on_16_bytes(key)) return nullptr;
  const std::string product = text_of(key);
  const auto entry = std::find_if(table.begin(), table.end(), [&](const AlgorithmEntry& e) {
    return e.cublaslt == cublaslt && e.gpu == gpu && e.product == product;
  });
  return entry == table.end() ? nullptr : &entry->choice;
}

std::string table_line(std::string_view gpu, std::size_t cublaslt, const ProductKey& key,
                       const ProductChoice& choice) {
  std::string algorithm;
  if (choice.one_call) algorithm = fmt::format("{{{{{:#x}}}}}", fmt::join(choice.algorithm, ", "));
  return fmt::format("{{\"{}\", {}, \"{}\", {{{}, {}}}}},", gpu, cublaslt, text_of(key),
                     choice.one_call, choice.one_call ? algorithm : "{}");
}

}  // namespace lockstep::ops::cuda
