#include <algorithm>

#include "models/workspace.h"

namespace lockstep::models {

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kProduct = 32 * kMiB;     // what cuBLASLt's kernels ask for at most
constexpr std::size_t kLibraryRoom = 4 * kMiB;  // beside what attention is known to need
// Parts into which rows are cut to be summed. Norms cut narrow rows into more, of fewer sums:
// 33,792 threads with 32 sums each at most, half of kSumSlots * kBlockElements.
constexpr std::int64_t kSumSlots = 256;
constexpr std::int64_t kBlockElements = 8192;  // of one block of threads: 1024 threads, 8 each

std::size_t bytes_of(std::int64_t elements, std::size_t size) {
  return static_cast<std::size_t>(elements) * size + 1024;  // arrays begin on 256 bytes
}

std::int64_t widest_bias(const ModelConfig& c) {
  const std::int64_t head = c.task == Task::kMaskedLm ? c.vocab : c.classes;
  return std::max({c.ffn_width, c.qkv_width(), head});
}

std::size_t attention_bytes(const ModelConfig& c, std::int64_t tokens,
                            ops::Determinism determinism) {
  const std::size_t row_sums = bytes_of(tokens * c.heads, sizeof(float));
  if (determinism == ops::Determinism::kRun) return row_sums;
  // cuDNN adds the gradient of the queries up in fp32 before it rounds it.
  return 2 * row_sums + bytes_of(tokens * c.width, sizeof(float)) + kLibraryRoom;
}

}  // namespace

std::size_t device_workspace_bytes(const ModelConfig& config, const ParameterTable& table,
                                   core::DType, std::int64_t max_sequences,
                                   ops::Determinism determinism) {
  const std::int64_t tokens = max_sequences * config.context;
  const std::int64_t partial = std::max(kBlockElements, config.width);
  std::size_t bytes = std::max(kProduct, attention_bytes(config, tokens, determinism));
  // Tokens grouped by row of the table; targets and losses of rows; partial sums of norms, of
  // biases, of residual gates and of gradients.
  bytes = std::max(bytes, bytes_of(2 * config.vocab + 2 * tokens + 2, sizeof(std::int32_t)));
  bytes = std::max(bytes, bytes_of(tokens, sizeof(std::int32_t) + 2 * sizeof(double)));
  bytes = std::max(bytes, bytes_of(2 * kSumSlots * partial, sizeof(float)));
  bytes = std::max(bytes, bytes_of(kSumSlots * widest_bias(config), sizeof(float)));
  bytes = std::max(bytes, bytes_of(tokens * (1 + config.width / 256), sizeof(double)));
  bytes = std::max(bytes, bytes_of(table.size(), 1024));
  return (bytes + 255) / 256 * 256;
}

}  // namespace lockstep::models
