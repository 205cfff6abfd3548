#include "runtime/health/parameter_guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "core/check.h"
#include "core/hash.h"
#include "runtime/step/steps_under_way.h"

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

using Message = std::vector<ops::ByteRange>;

// Segments of a bucket as bytes of the parameters.
void add_segments(const BucketLayout& layout, std::size_t size, int bucket,
                  const std::vector<Segment>& segments, Message& message) {
  const auto element = static_cast<std::int64_t>(size);
  for (const Segment& segment : segments) {
    message.push_back({(layout[bucket].parameter_begin + segment.bucket_begin) * element,
                       segment.count * element});
  }
}

std::vector<Message> slice_messages(const BucketLayout& layout, std::size_t size, int first_owner,
                                    int owners) {
  std::vector<Message> messages;
  for (int b = 0; b < layout.size(); ++b) {
    const std::int64_t shard = layout.shard_elements(b);
    for (int owner = first_owner; owner < first_owner + owners; ++owner) {
      Message& message = messages.emplace_back();
      add_segments(layout, size, b, layout.segments(b, owner * shard, (owner + 1) * shard),
                   message);
      // Nobody owns frozen tensors; rank 0 answers for them.
      if (owner == 0) add_segments(layout, size, b, layout.frozen_segments(b), message);
    }
  }
  return messages;
}

// Where a group is split depends on the number of ranks; its elements in canonical order do not.
std::vector<Message> group_messages(const BucketLayout& layout, std::size_t size,
                                    models::GroupIndex groups) {
  std::vector<Message> messages(static_cast<std::size_t>(groups));
  for (int b = 0; b < layout.size(); ++b) {
    Message& message = messages[static_cast<std::size_t>(layout[b].spec.group)];
    add_segments(layout, size, b, layout.segments(b, 0, layout[b].padded), message);
    add_segments(layout, size, b, layout.frozen_segments(b), message);
  }
  return messages;
}

}  // namespace

ParameterGuard::Hashes::Hashes(const std::vector<std::vector<ops::ByteRange>>& messages,
                               ops::OpContext& context, core::MemoryTracker& memory)
    : plan(context, memory, messages), values(context, messages.size(), memory, kStepsUnderWay) {}

std::vector<std::uint64_t> ParameterGuard::Hashes::taken(int mirror) const {
  std::vector<std::uint64_t> hashes;
  for (std::size_t i = 0; i < values.size(); ++i)
    hashes.push_back(values.value(i, mirror));
  return hashes;
}

ParameterGuard::ParameterGuard(const models::ParameterTable& table, const BucketLayout& layout,
                               ModelState& state, int rank, bool watches,
                               core::MemoryTracker& memory)
    : layout_(layout), state_(state), rank_(rank) {
  if (!watches) return;
  const std::size_t size = core::size_of(state.compute());
  const auto make = [&](const std::vector<Message>& messages) {
    return std::make_unique<Hashes>(messages, state.context(), memory);
  };
  own_ = make(slice_messages(layout, size, rank, 1));
  slices_ = make(slice_messages(layout, size, 0, layout.world_size()));
  groups_ = make(group_messages(layout, size, table.groups()));
}

void ParameterGuard::launch(Hashes& hashes, int mirror) const {
  ops::hash_messages(state_.context(), hashes.plan, state_.all_parameters(), hashes.values.at());
  hashes.values.fetch(mirror);
}

void ParameterGuard::published(int mirror) {
  if (own_ != nullptr) launch(*own_, mirror);
}

void ParameterGuard::take_published(int mirror) {
  if (own_ != nullptr) published_ = own_->taken(mirror);
}

void ParameterGuard::publish() {
  published(0);
  state_.context().wait();
  take_published(0);
}

void ParameterGuard::used(int mirror) {
  if (slices_ != nullptr) launch(*slices_, mirror);
}

void ParameterGuard::collect(std::int64_t step, int mirror) {
  if (slices_ == nullptr) return;
  StepHashes hashes{step, slices_->taken(mirror)};
  const auto world_size = static_cast<std::size_t>(layout_.world_size());
  for (int b = 0; b < layout_.size() && contradicted_step_ == 0; ++b) {
    const auto bucket = static_cast<std::size_t>(b);
    const std::uint64_t own = hashes.slices[bucket * world_size + static_cast<std::size_t>(rank_)];
    if (own == published_[bucket]) continue;
    contradicted_step_ = hashes.step;
    contradicted_bucket_ = b;
  }
  history_.push_back(std::move(hashes));
}

GuardMemory guard_memory(const models::ParameterTable& table, const BucketLayout& layout,
                         core::DType compute) {
  // Rows of a table are at most 32 bytes: one for each stretch of a tensor in a slice, each
  // message, each tile of 64 KiB, and each block of 1 KiB where stretches meet.
  constexpr std::size_t kRow = 32;
  constexpr std::size_t kRowsOfStretch = 5;
  const auto buckets = static_cast<std::size_t>(layout.size());
  const auto slices = buckets * static_cast<std::size_t>(layout.world_size());
  const auto groups = static_cast<std::size_t>(table.groups());
  const auto stretches = static_cast<std::size_t>(table.size()) + slices;
  const std::size_t bytes =
      static_cast<std::size_t>(layout.parameter_elements()) * core::size_of(compute);
  GuardMemory memory;
  memory.tables = 3 * kRow * (kRowsOfStretch * stretches + slices + groups + bytes / 65536);
  memory.results = (buckets + slices + groups) * sizeof(std::uint64_t);
  memory.scratch = (bytes / 1024 + slices + groups) * 64;
  return memory;
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

void ParameterGuard::used_buckets(int mirror) {
  launch(*groups_, mirror);
}

std::vector<std::uint64_t> ParameterGuard::bucket_hashes(int mirror) const {
  return groups_->taken(mirror);
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
