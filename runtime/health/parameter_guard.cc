#include "runtime/health/parameter_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "core/check.h"
#include "core/hash.h"
#include "models/ops/transfer.h"

namespace lockstep::runtime {

namespace {

// What one rank tells the others about itself when they search for the culprit.
struct Testimony {
  std::int64_t contradicted_step = 0;
  std::int64_t contradicted_bucket = -1;
};

// The ranks that hold another value than the clear majority; empty when all agree, all of them when
// nobody has a majority.
std::vector<int> minority(const std::vector<std::uint64_t>& values) {
  std::map<std::uint64_t, int> count;
  for (const std::uint64_t value : values)
    ++count[value];
  if (count.size() == 1) return {};
  const auto majority = std::max_element(
      count.begin(), count.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const bool clear = 2 * static_cast<std::size_t>(majority->second) > values.size();
  std::vector<int> ranks;
  for (std::size_t r = 0; r < values.size(); ++r) {
    if (!clear || values[r] != majority->first) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

}  // namespace

ParameterGuard::ParameterGuard(const BucketLayout& layout, ModelState& state, int rank)
    : layout_(layout), state_(state), rank_(rank) {}

void ParameterGuard::add_range(core::StreamingHash& hash, int bucket, std::int64_t begin,
                               std::int64_t end) const {
  const core::TensorView values = state_.bucket_parameters(bucket);
  const std::size_t size = core::size_of(values.dtype());
  const std::byte* data = on_host(values);
  for (const Segment& segment : layout_.segments(bucket, begin, end)) {
    hash.update(data + static_cast<std::size_t>(segment.bucket_begin) * size,
                static_cast<std::size_t>(segment.count) * size);
  }
}

const std::byte* ParameterGuard::on_host(core::ConstTensorView values) const {
  if (state_.context().device_ref().on_cpu()) return static_cast<const std::byte*>(values.raw());
  copy_.resize(values.bytes());
  models::ops::to_host(state_.context(), values, copy_.data());
  return copy_.data();
}

std::uint64_t ParameterGuard::hash_range(int bucket, std::int64_t begin, std::int64_t end) const {
  core::StreamingHash hash;
  add_range(hash, bucket, begin, end);
  return hash.digest();
}

void ParameterGuard::published() {
  published_.clear();
  for (int b = 0; b < layout_.size(); ++b) {
    const std::int64_t shard = layout_.shard_elements(b);
    published_.push_back(hash_range(b, rank_ * shard, (rank_ + 1) * shard));
  }
}

void ParameterGuard::used(std::int64_t step) {
  StepHashes hashes{step, {}};
  for (int b = 0; b < layout_.size(); ++b) {
    const std::int64_t shard = layout_.shard_elements(b);
    for (int owner = 0; owner < layout_.world_size(); ++owner) {
      hashes.slices.push_back(hash_range(b, owner * shard, (owner + 1) * shard));
    }
    const std::uint64_t own =
        hashes
            .slices[hashes.slices.size() - static_cast<std::size_t>(layout_.world_size() - rank_)];
    if (contradicted_step_ == 0 && own != published_[static_cast<std::size_t>(b)]) {
      contradicted_step_ = step;
      contradicted_bucket_ = b;
    }
  }
  history_.push_back(std::move(hashes));
}

std::uint64_t ParameterGuard::digest() const {
  core::StreamingHash hash;
  for (const StepHashes& step : history_) {
    hash.update(step.slices.data(), step.slices.size() * sizeof(std::uint64_t));
  }
  return std::max<std::uint64_t>(1, hash.digest());
}

void ParameterGuard::clear() {
  history_.clear();
  contradicted_step_ = 0;
  contradicted_bucket_ = -1;
}

// Where a group is split depends on the number of ranks; its elements in canonical order do not.
std::vector<std::uint64_t> ParameterGuard::bucket_hashes() const {
  std::vector<std::uint64_t> hashes;
  for (int b = 0; b < layout_.size();) {
    core::StreamingHash hash;
    const models::GroupIndex group = layout_[b].spec.group;
    for (; b < layout_.size() && layout_[b].spec.group == group; ++b)
      add_range(hash, b, 0, layout_[b].padded);
    hashes.push_back(hash.digest());
  }
  return hashes;
}

ParameterGuard::Verdict ParameterGuard::localise(comm::Communicator& communicator) const {
  const Testimony mine{contradicted_step_, contradicted_bucket_};
  const auto testimonies = communicator.all_gather_small(mine, "parameter_testimony");
  Verdict verdict;
  for (std::size_t r = 0; r < testimonies.size(); ++r) {
    if (testimonies[r].contradicted_step == 0) continue;
    const int bucket = static_cast<int>(testimonies[r].contradicted_bucket);
    verdict.ranks.push_back(static_cast<int>(r));
    verdict.detail +=
        fmt::format("{}rank {}: parameters of {} that it owns changed in its memory at step {}",
                    verdict.detail.empty() ? "" : "; ", r, layout_[bucket].spec.name,
                    testimonies[r].contradicted_step);
  }
  if (!verdict.ranks.empty()) return verdict;

  for (const StepHashes& step : history_) {
    const std::string packed(reinterpret_cast<const char*>(step.slices.data()),
                             step.slices.size() * sizeof(std::uint64_t));
    const std::vector<std::string> all = communicator.all_gather_bytes(packed, "parameter_hashes");
    for (std::size_t i = 0; i < step.slices.size(); ++i) {
      std::vector<std::uint64_t> values(all.size());
      for (std::size_t r = 0; r < all.size(); ++r) {
        std::memcpy(&values[r], all[r].data() + i * sizeof(std::uint64_t), sizeof(std::uint64_t));
      }
      std::vector<int> wrong = minority(values);
      if (wrong.empty()) continue;
      const auto owner = i % static_cast<std::size_t>(layout_.world_size());
      if (wrong.size() == values.size()) {
        // No majority. The owner's slice is what it published (or it would have said so): it
        // decides.
        std::erase_if(wrong,
                      [&](int r) { return values[static_cast<std::size_t>(r)] == values[owner]; });
      }
      const auto bucket = static_cast<int>(i / static_cast<std::size_t>(layout_.world_size()));
      verdict.ranks = wrong;
      verdict.detail = fmt::format("parameters of {} (slice owned by rank {}) differ at step {}",
                                   layout_[bucket].spec.name, owner, step.step);
      return verdict;
    }
  }
  LOCKSTEP_CHECK(false, "parameter digests differ but no step, bucket and slice does");
  return verdict;
}

}  // namespace lockstep::runtime
