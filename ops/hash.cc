#include "ops/hash.h"

#include <algorithm>

#include "ops/op_bodies.h"

namespace lockstep::ops {

namespace {

constexpr const char* kOp = "hash_messages";

class Cutter {
 public:
  void add(const std::vector<ByteRange>& ranges);
  void cut_last();

  std::int64_t extent = 0;
  std::int64_t rows = 0;
  std::vector<HashMessage> messages;
  std::vector<HashSegment> segments;
  std::vector<HashTile> tiles;
  std::vector<HashEdge> edges;

 private:
  void add_edges(std::int64_t begin, std::int64_t end);
  void add_tiles(const HashSegment& segment, std::int64_t begin, std::int64_t end);
};

// A message and its segments; ranges that follow one another become one.
void Cutter::add(const std::vector<ByteRange>& ranges) {
  HashMessage message{0, static_cast<std::int64_t>(segments.size()), rows, 0};
  for (const ByteRange& range : ranges) {
    LOCKSTEP_CHECK(range.offset >= 0 && range.bytes >= 0, "{}: a range of {} bytes from {}", kOp,
                   range.bytes, range.offset);
    if (range.bytes == 0) continue;
    extent = std::max(extent, range.offset + range.bytes);
    const std::int64_t begin = message.bytes;
    message.bytes += range.bytes;
    const bool first = static_cast<std::int64_t>(segments.size()) == message.first_segment;
    if (!first &&
        segments.back().offset + segments.back().end - segments.back().begin == range.offset) {
      segments.back().end = message.bytes;
    } else {
      segments.push_back({begin, message.bytes, range.offset});
    }
  }
  if (message.bytes > kHashShort) message.rows = (message.bytes - 1) / kHashBlock + 1;
  rows += message.rows;
  messages.push_back(message);
}

// The tiles and edges of the message that was added last.
void Cutter::cut_last() {
  const HashMessage& message = messages.back();
  if (message.rows == 0) return;
  const std::int64_t last = message.rows - 1;
  std::int64_t next = 0;  // the first block that has no place yet
  for (auto s = static_cast<std::size_t>(message.first_segment); s < segments.size(); ++s) {
    const HashSegment& segment = segments[s];
    const std::int64_t begin = (segment.begin + kHashBlock - 1) / kHashBlock;
    const std::int64_t end = std::min(segment.end / kHashBlock, last);
    if (begin >= end) continue;
    add_edges(next, begin);
    add_tiles(segment, begin, end);
    next = end;
  }
  add_edges(next, message.rows);
}

void Cutter::add_tiles(const HashSegment& segment, std::int64_t begin, std::int64_t end) {
  for (std::int64_t block = begin; block < end; block += HashTile::kBlocks) {
    tiles.push_back({segment.offset + block * kHashBlock - segment.begin,
                     messages.back().first_row + block, std::min(HashTile::kBlocks, end - block)});
  }
}

void Cutter::add_edges(std::int64_t begin, std::int64_t end) {
  const HashMessage& message = messages.back();
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t first = std::min(block * kHashBlock, message.bytes - kHashStripe);
    const auto found = std::upper_bound(
        segments.begin() + message.first_segment, segments.end(), first,
        [](std::int64_t byte, const HashSegment& segment) { return byte < segment.end; });
    edges.push_back({static_cast<std::int64_t>(messages.size()) - 1, block,
                     static_cast<std::int64_t>(found - segments.begin())});
  }
}

}  // namespace

HashPlan::HashPlan(const OpContext& context, core::MemoryTracker& memory,
                   const std::vector<std::vector<ByteRange>>& messages)
    : device_(context.device()) {
  Cutter cutter;
  for (const std::vector<ByteRange>& ranges : messages) {
    cutter.add(ranges);
    if (!context.device_ref().on_cpu()) cutter.cut_last();
  }
  extent_ = cutter.extent;
  rows_ = cutter.rows;
  messages_ = {context, memory, std::move(cutter.messages)};
  segments_ = {context, memory, std::move(cutter.segments)};
  tiles_ = {context, memory, std::move(cutter.tiles)};
  edges_ = {context, memory, std::move(cutter.edges)};
}

void hash_messages(OpContext& context, const HashPlan& plan, core::ConstTensorView base,
                   std::uint64_t* hashes) {
  const OpBodies& bodies = bodies_for(context, kOp, {base});
  LOCKSTEP_CHECK(plan.device() == context.device(), "{}: a plan for {} on {}", kOp,
                 core::to_string(plan.device()), core::to_string(context.device()));
  LOCKSTEP_CHECK(base.contiguous(), "{}: base must be contiguous, found row stride {}", kOp,
                 base.row_stride());
  const std::int64_t bytes = base.empty() ? 0 : static_cast<std::int64_t>(base.bytes());
  LOCKSTEP_CHECK(plan.extent() <= bytes, "{}: the plan reads {} bytes of a base of {}", kOp,
                 plan.extent(), bytes);
  if (plan.messages().size() > 0) bodies.hash_messages(context, plan, base, hashes);
}

}  // namespace lockstep::ops
