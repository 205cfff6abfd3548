#include "ops/cuda/bodies.h"
#include "ops/cuda/op_kernel.cuh"
#include "ops/cuda/xxh3.cuh"

// XXH3 of long messages in two parts. What a block adds to the accumulators does not depend on the
// blocks before it, so one kernel computes these increments for all blocks at once, at the speed of
// memory; the second walks over them, message by message.
namespace lockstep::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr int kPairs = 4;  // of accumulators: 16 bytes of every stripe
constexpr int kStripes = kHashBlock / kHashStripe;
static_assert(kThreads / kPairs == HashTile::kBlocks);

struct Increments {
  const unsigned char* base;
  const HashMessage* messages;
  const HashSegment* segments;
  const HashTile* tiles;
  const HashEdge* edges;
  std::int64_t edge_count;
  xxh3::Pair* rows;  // kPairs each
};

// 8 bytes in the largest pieces that p allows.
__device__ std::uint64_t read_word(const unsigned char* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (address % 8 == 0) return *reinterpret_cast<const std::uint64_t*>(p);
  std::uint64_t word = 0;
  if (address % 4 == 0) {
    for (int i = 0; i < 2; ++i)
      word |= static_cast<std::uint64_t>(reinterpret_cast<const std::uint32_t*>(p)[i]) << (32 * i);
    return word;
  }
  if (address % 2 == 0) {
    for (int i = 0; i < 4; ++i)
      word |= static_cast<std::uint64_t>(reinterpret_cast<const std::uint16_t*>(p)[i]) << (16 * i);
    return word;
  }
  return xxh3::read_bytes(p, 8);
}

// Walks over a message's segments, forwards.
struct Cursor {
  const unsigned char* base;
  const HashSegment* segment;

  __device__ const unsigned char* at(std::int64_t byte) {
    while (segment->end <= byte)
      ++segment;
    return base + segment->offset + (byte - segment->begin);
  }
  // The 8 bytes from `byte` on, which may be those of several segments.
  __device__ std::uint64_t word(std::int64_t byte) {
    const unsigned char* p = at(byte);
    if (byte + 8 <= segment->end) return read_word(p);
    std::uint64_t word = 0;
    for (int i = 0; i < 8; ++i)
      word |= static_cast<std::uint64_t>(*at(byte + i)) << (8 * i);
    return word;
  }
};

// A thread adds one pair of accumulators over all stripes of a block.
__device__ void add_tile(const Increments& work, const HashTile& tile,
                         const std::uint64_t* secret) {
  const int block = static_cast<int>(threadIdx.x) / kPairs;
  const int pair = static_cast<int>(threadIdx.x) % kPairs;
  if (block >= tile.blocks) return;
  const unsigned char* p = work.base + tile.offset + block * kHashBlock + pair * 16;
  const std::uint64_t* keys = secret + 2 * pair;
  xxh3::Pair sum{};
  if (reinterpret_cast<std::uintptr_t>(p) % 16 == 0) {
#pragma unroll
    for (int s = 0; s < kStripes; ++s)
      xxh3::accumulate(sum, *reinterpret_cast<const xxh3::Pair*>(p + s * kHashStripe), keys[s],
                       keys[s + 1]);
  } else {
    for (int s = 0; s < kStripes; ++s) {
      const unsigned char* from = p + s * kHashStripe;
      xxh3::accumulate(sum, {{read_word(from), read_word(from + 8)}}, keys[s], keys[s + 1]);
    }
  }
  work.rows[(tile.row + block) * kPairs + pair] = sum;
}

// A warp adds a block whose bytes lie in several segments, or the last of a message: whole stripes,
// and then the message's last 64 bytes under another key.
__device__ void add_edge(const Increments& work, const HashEdge& edge,
                         const std::uint64_t* secret) {
  const HashMessage message = work.messages[edge.message];
  const std::int64_t begin = edge.block * kHashBlock;
  const bool last = edge.block == message.rows - 1;
  const int stripes = last ? static_cast<int>((message.bytes - 1 - begin) / kHashStripe) : kStripes;
  const int pair = lane_of_thread() % kPairs;
  xxh3::Pair sum{};
  for (int s = lane_of_thread() / kPairs; s < kStripes; s += kWarp / kPairs) {
    if (s > stripes || (s == stripes && !last)) break;
    const bool ends = s == stripes;
    const std::int64_t byte =
        (ends ? message.bytes - kHashStripe : begin + s * kHashStripe) + pair * 16;
    const int key = (ends ? xxh3::kLastStripeKey : 8 * s) + pair * 16;
    Cursor cursor{work.base, work.segments + edge.segment};
    const std::uint64_t low = cursor.word(byte);
    const std::uint64_t high = cursor.word(byte + 8);
    xxh3::accumulate(sum, {{low, high}}, xxh3::key_at(secret, key), xxh3::key_at(secret, key + 8));
  }
  for (int offset = kPairs; offset < kWarp; offset *= 2)
    for (std::uint64_t& v : sum.v)
      v += shuffle_xor(v, offset);
  if (lane_of_thread() < kPairs) work.rows[(message.first_row + edge.block) * kPairs + pair] = sum;
}

__device__ void copy_secret(const xxh3::Secret& from, std::uint64_t* to) {
  for (unsigned i = threadIdx.x; i < xxh3::kSecretWords; i += blockDim.x)
    to[i] = from.words[i];
  sync_threads();
}

__global__ void increments_kernel(Increments work, unsigned edge_blocks,
                                  xxh3::Secret default_secret) {
  LOCKSTEP_SHARED(std::uint64_t, secret, xxh3::kSecretWords);
  copy_secret(default_secret, secret);
  if (blockIdx.x >= edge_blocks) {
    const HashTile tile = work.tiles[blockIdx.x - edge_blocks];
    return add_tile(work, tile, secret);
  }
  const std::int64_t edge =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_of_thread();
  if (edge < work.edge_count) add_edge(work, work.edges[edge], secret);
}

// The walk: a warp to a message, of which four times 8 lanes do the same. The increments come
// through a ring of chunks in shared memory, asked for long before they are due.
constexpr int kChunk = 64;  // rows
constexpr int kRing = 4;    // chunks
constexpr int kRowWords = xxh3::kAccumulators;

__device__ void fetch_chunk(const std::uint64_t* rows, std::int64_t count, std::int64_t chunk,
                            std::uint64_t* ring) {
  const std::int64_t first = chunk * kChunk * kRowWords;
  const std::int64_t words = count * kRowWords - first;
  std::uint64_t* to = ring + chunk % kRing * (kChunk * kRowWords);
#pragma unroll
  for (int i = 2 * lane_of_thread(); i < kChunk * kRowWords; i += 2 * kWarp)
    if (i < words) copy_async(to + i, rows + first + i);
  copy_async_commit();
}

// Accumulator lane % 8 behind the last block.
__device__ std::uint64_t walk(const std::uint64_t* rows, std::int64_t count,
                              const std::uint64_t* secret, std::uint64_t* ring) {
  const int i = lane_of_thread() % kRowWords;
  const std::uint64_t key = secret[xxh3::kScrambleWord + i];
  for (int chunk = 0; chunk < kRing - 1; ++chunk)
    fetch_chunk(rows, count, chunk, ring);
  std::uint64_t acc = 0;
  for (std::int64_t chunk = 0; chunk * kChunk < count; ++chunk) {
    copy_async_wait<kRing - 2>();
    sync_warp();  // the chunk is there for all lanes, and all have left the one before it
    fetch_chunk(rows, count, chunk + kRing - 1, ring);
    const std::uint64_t* next = ring + chunk % kRing * (kChunk * kRowWords) + i;
    const std::int64_t left = count - chunk * kChunk;
    if (chunk > 0 && left >= kChunk) {
#pragma unroll
      for (int r = 0; r < kChunk; ++r)
        acc = xxh3::scramble_and_add(acc, key, next[r * kRowWords]);
      continue;
    }
    for (int r = 0; r < kChunk && r < left; ++r) {
      const bool first = chunk == 0 && r == 0;
      acc = first ? xxh3::initial(i) + next[0]
                  : xxh3::scramble_and_add(acc, key, next[r * kRowWords]);
    }
  }
  copy_async_wait<0>();
  return acc;
}

// On every lane.
__device__ std::uint64_t merge(std::uint64_t acc, std::int64_t bytes, const std::uint64_t* secret) {
  const int i = lane_of_thread() % kRowWords;
  const std::uint64_t mine = acc ^ xxh3::key_at(secret, xxh3::kMergeKey + 8 * i);
  const std::uint64_t other = shuffle_xor(mine, 1);
  const std::uint64_t folded = i % 2 == 0 ? xxh3::folded_product(mine, other) : 0;
  return xxh3::avalanche(static_cast<std::uint64_t>(bytes) * xxh3::kPrime64_1 +
                         combine_lanes(folded, AddOf{}, kRowWords));
}

__global__ void hashes_kernel(Increments work, xxh3::Secret default_secret, std::uint64_t* hashes) {
  LOCKSTEP_SHARED(std::uint64_t, secret, xxh3::kSecretWords);
  LOCKSTEP_SHARED(std::uint64_t, ring, kRing * kChunk * kRowWords);
  LOCKSTEP_SHARED(unsigned char, text, kHashShort);
  copy_secret(default_secret, secret);
  const HashMessage message = work.messages[blockIdx.x];
  std::uint64_t hash = 0;
  if (message.rows == 0) {
    Cursor cursor{work.base, work.segments + message.first_segment};
    for (std::int64_t b = lane_of_thread(); b < message.bytes; b += kWarp)
      text[b] = *cursor.at(b);
    sync_warp();
    hash = xxh3::hash_short(text, static_cast<int>(message.bytes), secret);
  } else {
    const auto* rows =
        reinterpret_cast<const std::uint64_t*>(work.rows) + message.first_row * kRowWords;
    hash = merge(walk(rows, message.rows, secret, ring), message.bytes, secret);
  }
  if (lane_of_thread() == 0) hashes[blockIdx.x] = hash;
}

}  // namespace

void hash_messages(OpContext& context, const HashPlan& plan, ConstTensorView base,
                   std::uint64_t* hashes) {
  check_device_range(base.raw(), extent(base));
  check_device_range(hashes,
                     static_cast<std::size_t>(plan.messages().size()) * sizeof(std::uint64_t));
  auto* rows = plan.rows() == 0 ? nullptr : context.scratch(plan.scratch_bytes());
  const Increments work{static_cast<const unsigned char*>(base.raw()),
                        plan.messages().data(),
                        plan.segments().data(),
                        plan.tiles().data(),
                        plan.edges().data(),
                        plan.edges().size(),
                        reinterpret_cast<xxh3::Pair*>(rows)};
  const std::int64_t edge_blocks = ceil_div(plan.edges().size(), kThreads / kWarp);
  launch("hash_increments", increments_kernel,
         Grid{block_count(edge_blocks + plan.tiles().size()), kThreads, 0}, context.stream(), work,
         block_count(edge_blocks), xxh3::kSecret);
  launch("hash_messages", hashes_kernel, Grid{block_count(plan.messages().size()), kWarp, 0},
         context.stream(), work, xxh3::kSecret, hashes);
}

}  // namespace lockstep::ops::cuda
