#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model_io.h"
#include "models/parameter_table.h"

namespace lockstep::runtime {

// Elements [begin, end) of one parameter that lie contiguously in a bucket.
struct Segment {
  models::ParameterId parameter = models::kNoParameter;
  std::int64_t parameter_begin = 0;  // first element, within the parameter
  std::int64_t bucket_begin = 0;     // where it lies, in elements from the start of the bucket
  std::int64_t count = 0;
};

// A tensor without gradient: whole, on every rank, updated by nobody.
struct FrozenTensor {
  models::ParameterId parameter = models::kNoParameter;
  std::int64_t offset = 0;  // elements from the start of the bucket
};

struct BucketPlacement {
  models::BucketSpec spec;  // what is trained
  std::vector<std::int64_t>
      piece_offsets;         // of each piece from the start of the bucket, multiples of kAlignment
  std::int64_t content = 0;  // elements up to the end of the last aligned piece
  std::int64_t padded = 0;   // a multiple of kAlignment * world_size, >= content
  std::int64_t extent = 0;   // padded, and behind it the frozen tensors
  std::vector<FrozenTensor> frozen;
  std::int64_t flat_offset = 0;      // of `padded` in the flat space
  std::int64_t parameter_begin = 0;  // of `extent` in the space of all parameters
  bool holds_tied_table = false;     // its gradient is whole only at the end of backward
};

// One flat parameter space (docs/architecture.md): tensors in canonical order, grouped in buckets
// (embeddings, each block, head), each tensor aligned to 64 elements, each bucket padded so that
// every rank owns an equal slice of it, on 64-element blocks. Blocks are neither merged nor split;
// embeddings and an untied head larger than the limit are split by rows, a tied table never. Pure
// arithmetic, the same on every rank; rank r owns elements [r * shard, (r+1) * shard) of each
// bucket.
//
// Gradients and optimizer state have no place for frozen tensors: these stand behind the padded
// part of the last bucket of their group (a bucket of their own where the whole group is frozen),
// and only the parameters themselves, which have a space of their own, reach there.
class BucketLayout {
 public:
  static constexpr std::int64_t kAlignment = 64;

  // bucket_bytes: limit for splitting, counted in element_bytes per element.
  BucketLayout(const models::ParameterTable& table, bool tied, int world_size,
               std::int64_t bucket_bytes, std::int64_t element_bytes);

  int world_size() const { return world_size_; }
  int size() const { return static_cast<int>(buckets_.size()); }
  const BucketPlacement& operator[](int bucket) const {
    return buckets_[static_cast<std::size_t>(bucket)];
  }
  const std::vector<models::BucketSpec>& specs() const { return specs_; }

  std::int64_t shard_elements(int bucket) const { return (*this)[bucket].padded / world_size_; }
  std::int64_t shard_offset(
      int bucket) const;  // of this bucket's shard in a buffer holding one rank's shards
  std::int64_t flat_elements() const { return flat_elements_; }  // padded, all buckets
  std::int64_t shard_total() const { return flat_elements_ / world_size_; }
  std::int64_t parameter_elements() const { return parameter_elements_; }  // all extents
  std::int64_t parameter_offset(models::ParameterId id) const;  // in the space of parameters
  int first_bucket(models::ParameterId id) const;               // buckets that hold the parameter:
  int last_bucket(models::ParameterId id) const;                // [first, last]
  int bucket_of_block(int block) const;                         // of models' block.<block>

  // The greatest padded size among buckets, not counting one that holds a tied table.
  std::int64_t largest_ring_bucket() const;
  std::int64_t tied_bucket_elements() const;  // 0 when nothing is tied

  // What of bucket lies in [begin, end) of its elements, in order; padding belongs to no segment.
  std::vector<Segment> segments(int bucket, std::int64_t begin, std::int64_t end) const;
  std::vector<Segment> owned_segments(int bucket, int rank) const;
  std::vector<Segment> frozen_segments(int bucket) const;  // whole tensors, in canonical order

 private:
  void add_bucket(const std::string& name, models::GroupIndex group,
                  std::vector<models::ParameterPiece> pieces, bool tied_table);
  void add_frozen(int bucket, const std::vector<models::ParameterId>& tensors);
  void add_group(models::GroupIndex group, bool tied, std::int64_t limit_elements);

  const models::ParameterTable& table_;
  int world_size_;
  std::vector<BucketPlacement> buckets_;
  std::vector<models::BucketSpec> specs_;
  std::vector<std::int64_t> shard_offsets_;
  std::vector<int> first_bucket_;
  std::vector<int> last_bucket_;
  std::vector<std::int64_t> parameter_offsets_;
  std::int64_t flat_elements_ = 0;
  std::int64_t parameter_elements_ = 0;
};

}  // namespace lockstep::runtime
