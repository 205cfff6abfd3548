#include "runtime/sharding/bucket_layout.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/check.h"

namespace lockstep::runtime {

namespace {

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

std::int64_t rows_of(const models::ParameterSpec& spec) {
  return spec.shape.rank() >= 2 ? spec.shape[0] : 1;
}

std::int64_t cols_of(const models::ParameterSpec& spec) {
  return spec.elements() / rows_of(spec);
}

std::int64_t piece_elements(const models::ParameterTable& table,
                            const models::ParameterPiece& piece) {
  return (piece.row_end - piece.row_begin) * cols_of(table[piece.parameter]);
}

}  // namespace

BucketLayout::BucketLayout(const models::ParameterTable& table, bool tied, int world_size,
                           std::int64_t bucket_bytes, std::int64_t element_bytes)
    : table_(table), world_size_(world_size) {
  const auto count = static_cast<std::size_t>(table.size());
  first_bucket_.assign(count, -1);
  last_bucket_.assign(count, -1);
  parameter_offsets_.assign(count, 0);
  for (models::GroupIndex group = 0; group < table.groups(); ++group) {
    add_group(group, tied, std::max<std::int64_t>(1, bucket_bytes / element_bytes));
  }
}

void BucketLayout::add_group(models::GroupIndex group, bool tied, std::int64_t limit_elements) {
  const bool is_block = group > 0 && group < table_.groups() - 1;
  const bool holds_tied_table =
      tied && group == 0 && !table_[table_.in_group(group).front()].frozen;
  std::vector<models::ParameterId> frozen;
  std::vector<models::ParameterPiece> pending;
  std::vector<std::vector<models::ParameterPiece>> buckets;
  for (const models::ParameterId id : table_.in_group(group)) {
    const models::ParameterSpec& spec = table_[id];
    const std::int64_t rows = rows_of(spec);
    if (spec.frozen) {
      frozen.push_back(id);
      continue;
    }
    if (is_block || holds_tied_table || spec.elements() <= limit_elements) {
      pending.push_back({id, 0, rows});
      continue;
    }
    // Each split piece but the last is a multiple of 64 * world_size elements, so that no padding
    // falls inside a tensor. A head's is one of kSplitRows rows too, so that no cut shows in the
    // bits.
    const std::int64_t even = kAlignment * world_size_;
    const bool is_head = group == table_.groups() - 1;
    const std::int64_t unit = is_head ? std::lcm(even, models::kSplitRows) : even;
    const std::int64_t step = std::max(unit, limit_elements / cols_of(spec) / unit * unit);
    if (!pending.empty()) buckets.push_back(std::exchange(pending, {}));
    for (std::int64_t row = 0; row < rows; row += step) {
      buckets.push_back({{id, row, std::min(rows, row + step)}});
    }
  }
  const bool all_frozen = pending.empty() && buckets.empty() && !frozen.empty();
  if (!pending.empty() || all_frozen) buckets.push_back(std::move(pending));
  const std::string name = table_.group_name(group);
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    add_bucket(buckets.size() == 1 ? name : fmt::format("{}.{}", name, i), group,
               std::move(buckets[i]), holds_tied_table);
  }
  if (!frozen.empty()) add_frozen(size() - 1, frozen);
}

void BucketLayout::add_frozen(int bucket, const std::vector<models::ParameterId>& tensors) {
  BucketPlacement& placement = buckets_[static_cast<std::size_t>(bucket)];
  for (const models::ParameterId id : tensors) {
    const auto index = static_cast<std::size_t>(id);
    first_bucket_[index] = bucket;
    last_bucket_[index] = bucket;
    parameter_offsets_[index] = placement.parameter_begin + placement.extent;
    placement.frozen.push_back({id, placement.extent});
    placement.extent += round_up(table_[id].elements(), kAlignment);
  }
  parameter_elements_ = placement.parameter_begin + placement.extent;
}

void BucketLayout::add_bucket(const std::string& name, models::GroupIndex group,
                              std::vector<models::ParameterPiece> pieces, bool tied_table) {
  BucketPlacement placement;
  placement.spec = {name, group, std::move(pieces)};
  placement.holds_tied_table = tied_table;
  placement.flat_offset = flat_elements_;
  placement.parameter_begin = parameter_elements_;
  for (const models::ParameterPiece& piece : placement.spec.pieces) {
    const auto id = static_cast<std::size_t>(piece.parameter);
    if (first_bucket_[id] < 0) {
      first_bucket_[id] = size();
      parameter_offsets_[id] = parameter_elements_ + placement.content;
    }
    last_bucket_[id] = size();
    placement.piece_offsets.push_back(placement.content);
    placement.content += round_up(piece_elements(table_, piece), kAlignment);
  }
  placement.padded = round_up(placement.content, kAlignment * world_size_);
  placement.extent = placement.padded;
  shard_offsets_.push_back(flat_elements_ / world_size_);
  flat_elements_ += placement.padded;
  parameter_elements_ += placement.extent;
  specs_.push_back(placement.spec);
  buckets_.push_back(std::move(placement));
}

std::int64_t BucketLayout::shard_offset(int bucket) const {
  return shard_offsets_[static_cast<std::size_t>(bucket)];
}

std::int64_t BucketLayout::parameter_offset(models::ParameterId id) const {
  return parameter_offsets_[static_cast<std::size_t>(id)];
}

int BucketLayout::first_bucket(models::ParameterId id) const {
  return first_bucket_[static_cast<std::size_t>(id)];
}

int BucketLayout::last_bucket(models::ParameterId id) const {
  return last_bucket_[static_cast<std::size_t>(id)];
}

int BucketLayout::bucket_of_block(int block) const {
  for (int b = 0; b < size(); ++b) {
    if ((*this)[b].spec.group == block + 1) return b;
  }
  LOCKSTEP_CHECK(false, "no bucket holds block {}", block);
  return -1;
}

std::int64_t BucketLayout::largest_ring_bucket() const {
  std::int64_t largest = 0;
  for (const BucketPlacement& bucket : buckets_) {
    if (!bucket.holds_tied_table) largest = std::max(largest, bucket.padded);
  }
  return largest;
}

std::int64_t BucketLayout::tied_bucket_elements() const {
  std::int64_t elements = 0;
  for (const BucketPlacement& bucket : buckets_) {
    if (bucket.holds_tied_table) elements += bucket.padded;
  }
  return elements;
}

std::vector<Segment> BucketLayout::segments(int bucket, std::int64_t begin,
                                            std::int64_t end) const {
  const BucketPlacement& placement = (*this)[bucket];
  std::vector<Segment> found;
  for (std::size_t i = 0; i < placement.spec.pieces.size(); ++i) {
    const models::ParameterPiece& piece = placement.spec.pieces[i];
    const std::int64_t piece_begin = placement.piece_offsets[i];
    const std::int64_t low = std::max(begin, piece_begin);
    const std::int64_t high = std::min(end, piece_begin + piece_elements(table_, piece));
    if (low >= high) continue;
    const std::int64_t first = piece.row_begin * cols_of(table_[piece.parameter]);
    found.push_back({piece.parameter, first + low - piece_begin, low, high - low});
  }
  return found;
}

std::vector<Segment> BucketLayout::frozen_segments(int bucket) const {
  std::vector<Segment> segments;
  for (const FrozenTensor& tensor : (*this)[bucket].frozen)
    segments.push_back({tensor.parameter, 0, tensor.offset, table_[tensor.parameter].elements()});
  return segments;
}

std::vector<Segment> BucketLayout::owned_segments(int bucket, int rank) const {
  const std::int64_t shard = shard_elements(bucket);
  return segments(bucket, rank * shard, (rank + 1) * shard);
}

}  // namespace lockstep::runtime
