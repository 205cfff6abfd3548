#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "ops/op_context.h"
#include "ops/plan_table.h"

namespace lockstep::ops {

// Bytes [offset, offset + bytes) of a view.
struct ByteRange {
  std::int64_t offset = 0;
  std::int64_t bytes = 0;
};

// XXH3 reads long messages in stripes of 64 bytes, 16 of which are a block; up to 240 bytes are
// short and hashed in other ways.
inline constexpr std::int64_t kHashStripe = 64;
inline constexpr std::int64_t kHashBlock = 1024;
inline constexpr std::int64_t kHashShort = 240;

// Bytes [begin, end) of a message, which lie together from `offset` of the base on.
struct HashSegment {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t offset;
};

// A message has a row of increments (8 numbers) for each of its blocks, the last of which holds
// between 1 and 1024 bytes; none when it is short.
struct HashMessage {
  std::int64_t bytes;
  std::int64_t first_segment;
  std::int64_t first_row;
  std::int64_t rows;
};

// Blocks that are full, not the last of their message, and lie together from `offset` of the base
// on.
struct HashTile {
  static constexpr std::int64_t kBlocks = 64;  // at most

  std::int64_t offset;
  std::int64_t row;  // of the first block
  std::int64_t blocks;
};

// Any other block. `segment`: that of its first byte (of its last stripe's first byte, where that
// comes before it).
struct HashEdge {
  std::int64_t message;
  std::int64_t block;  // within the message
  std::int64_t segment;
};

// Which bytes of a view are hashed, cut into work once so that the calls neither allocate nor
// upload. Tables lie in the memory of the context's device; tiles and edges are made for devices
// only.
class HashPlan {
 public:
  // Each message is the concatenation of its ranges, which may be empty, overlap and come in any
  // order.
  HashPlan(const OpContext& context, core::MemoryTracker& memory,
           const std::vector<std::vector<ByteRange>>& messages);

  core::Device device() const { return device_; }
  std::int64_t extent() const { return extent_; }  // bytes that the base must have at least
  std::int64_t rows() const { return rows_; }      // of increments, all messages

  const PlanTable<HashMessage>& messages() const { return messages_; }
  const PlanTable<HashSegment>& segments() const { return segments_; }
  const PlanTable<HashTile>& tiles() const { return tiles_; }
  const PlanTable<HashEdge>& edges() const { return edges_; }

  // What a call on a device takes of the context's scratch: a sixteenth of the bytes hashed.
  std::size_t scratch_bytes() const { return static_cast<std::size_t>(rows_) * kHashStripe; }

 private:
  core::Device device_;
  std::int64_t extent_ = 0;
  std::int64_t rows_ = 0;
  PlanTable<HashMessage> messages_;
  PlanTable<HashSegment> segments_;
  PlanTable<HashTile> tiles_;
  PlanTable<HashEdge> edges_;
};

// hashes[m] = XXH3-64 (seed 0, default secret) of message m of the plan: what core::hash64() gives
// for the same bytes. base: any contiguous view of at least plan.extent() bytes; hashes: one for
// each message, in the memory of the context's device. On a device the time is that of reading the
// bytes once and then of the longest message's chain, some 15 clocks for each of its blocks, for
// which a warp is busy for each message; so hash all that is there in one call.
// https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
void hash_messages(OpContext& context, const HashPlan& plan, core::ConstTensorView base,
                   std::uint64_t* hashes);

}  // namespace lockstep::ops
