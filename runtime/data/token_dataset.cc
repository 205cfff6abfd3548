#include "runtime/data/token_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "ops/loss.h"
#include "runtime/data/permutation.h"

namespace lockstep::runtime {

TokenDataset::TokenDataset(std::vector<TokenFile> files, const DealingOptions& options)
    : files_(std::move(files)), options_(options) {
  LOCKSTEP_CHECK(options_.context > 0, "context {}", options_.context);
  LOCKSTEP_CHECK(options_.vocab > 0 && options_.vocab <= (1LL << 31), "vocabulary {}",
                 options_.vocab);
  if (files_.empty())
    throw core::Error(core::ErrorKind::kData, "expected at least one token file, found none");
  const auto context = static_cast<std::uint64_t>(options_.context);
  for (const TokenFile& file : files_) {
    if (file.tokens() < context + 1)
      throw core::Error(
          core::ErrorKind::kData,
          fmt::format("{}: expected at least {} tokens (model.context = {} and one more for the "
                      "last target), found {}; use more data or a smaller model.context",
                      file.path().string(), context + 1, context, file.tokens()));
    if (file.tokens() * core::size_of(file.token_type()) < kFullScanBytes)
      file.check_ids(0, file.tokens(), options_.vocab);
    sequences_ += (file.tokens() - 1) / context;
    ends_.push_back(sequences_);
  }
}

std::uint64_t TokenDataset::tokens() const {
  return std::accumulate(files_.begin(), files_.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const TokenFile& f) { return sum + f.tokens(); });
}

std::vector<DataFingerprint> TokenDataset::fingerprints() const {
  std::vector<DataFingerprint> fingerprints;
  for (const TokenFile& file : files_) {
    fingerprints.push_back(file.fingerprint());
    if (auto mask = file.mask_fingerprint()) fingerprints.push_back(*std::move(mask));
  }
  return fingerprints;
}

std::uint64_t TokenDataset::list_entry(std::uint64_t position) const {
  const std::uint64_t index = position % sequences_;
  if (options_.order == DataOrder::kSequential) return index;
  return Permutation(options_.seed, position / sequences_, sequences_)(index);
}

TokenDataset::Location TokenDataset::locate(std::uint64_t position) const {
  const std::uint64_t entry = list_entry(position);
  const auto end = std::upper_bound(ends_.begin(), ends_.end(), entry);
  const std::uint64_t begin = end == ends_.begin() ? 0 : *(end - 1);
  return {static_cast<std::size_t>(end - ends_.begin()),
          (entry - begin) * static_cast<std::uint64_t>(options_.context)};
}

void TokenDataset::sequence(std::uint64_t position, std::span<std::int32_t> inputs,
                            std::span<std::int32_t> targets) const {
  const auto context = static_cast<std::size_t>(options_.context);
  LOCKSTEP_CHECK(inputs.size() == context && targets.size() == context,
                 "{} inputs and {} targets for a context of {}", inputs.size(), targets.size(),
                 context);
  const Location at = locate(position);
  const TokenFile& file = files_[at.file];
  file.check_ids(at.first_token, context + 1, options_.vocab);
  file.read(at.first_token, inputs);
  file.read_targets(at.first_token + 1, targets);
  std::replace(inputs.begin(), inputs.end(), kNoTarget, 0);
  std::replace(targets.begin(), targets.end(), kNoTarget, ops::kIgnored);
}

void TokenDataset::fill(std::int64_t position, std::int64_t count, std::span<std::int32_t> inputs,
                        std::span<std::int32_t> targets) const {
  LOCKSTEP_CHECK(position >= 0 && count >= 0, "sequences [{}, +{})", position, count);
  const auto context = static_cast<std::size_t>(options_.context);
  const auto rows = static_cast<std::size_t>(count);
  LOCKSTEP_CHECK(inputs.size() == rows * context && targets.size() == rows * context,
                 "{} inputs and {} targets for {} sequences of {}", inputs.size(), targets.size(),
                 rows, context);
  for (std::size_t row = 0; row < rows; ++row)
    sequence(static_cast<std::uint64_t>(position) + row, inputs.subspan(row * context, context),
             targets.subspan(row * context, context));
}

}  // namespace lockstep::runtime
