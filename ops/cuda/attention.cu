#include <cmath>

#include "ops/cuda/attention.cuh"
#include "ops/cuda/bodies.h"

// The plain attention. A warp works on one query (of dk and dv: one key) at a time against tiles of
// 32 keys (queries) in shared memory: for scores a lane is a key, for sums of rows it is a column.
namespace lockstep::ops::cuda {

namespace {

constexpr int kWarps = 8;                     // of a block: as many queries (keys) at a time
constexpr int kMostWidth = 256;               // of a head
constexpr int kColumns = kMostWidth / kWarp;  // of a row that a lane may hold

// Rows [begin, begin + 32) of one head in fp32, width + 1 apart so that lanes reading a column fall
// into different banks; zeros behind the sequence.
template <typename T>
__device__ void load_rows(const Rows<const T>& from, std::int64_t first_row, std::int64_t begin,
                          std::int64_t end, std::int64_t head, int width, float* tile) {
  for (int at = static_cast<int>(threadIdx.x); at < kWarp * width;
       at += static_cast<int>(blockDim.x)) {
    const int r = at / width;
    const int d = at % width;
    tile[r * (width + 1) + d] =
        begin + r < end ? to_float(from.row(first_row + begin + r)[head * width + d]) : 0.0F;
  }
}

// The row of this warp, shared by its lanes.
template <typename T>
__device__ void load_own_row(const T* from, bool inside, int width, float* row) {
  for (int d = lane_of_thread(); d < width; d += kWarp)
    row[d] = inside ? to_float(from[d]) : 0.0F;
  sync_warp();
}

__device__ float dot(const float* a, const float* b, int width) {
  float sum = 0.0F;
  for (int d = 0; d < width; ++d)
    sum += a[d] * b[d];
  return sum;
}

// row[d] += the sum over the 32 rows of the weight of lane r times tile[r][d], for the lane's
// columns. weights: 32 floats in shared memory for this warp.
__device__ void add_weighted_rows(float weight, float* weights, const float* tile, int width,
                                  float (&row)[kColumns]) {
  weights[lane_of_thread()] = weight;
  sync_warp();
  for (int r = 0; r < kWarp; ++r) {
    const float w = weights[r];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int d = lane_of_thread() + c * kWarp;
      if (d < width) row[c] += w * tile[r * (width + 1) + d];
    }
  }
  sync_warp();
}

template <typename T>
__device__ void store_row(const float (&row)[kColumns], float factor, int width, T* to) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int d = lane_of_thread() + c * kWarp;
    if (d < width) to[d] = from_float<T>(row[c] * factor);
  }
}

// How far a loop over the keys of a tile of queries goes.
__device__ std::int64_t key_end(const AttentionShape& s, std::int64_t last_query) {
  return s.causal && last_query + 1 < s.length ? last_query + 1 : s.length;
}

template <typename T>
struct ForwardOperands {
  Rows<const T> q, k, v;
  Rows<T> out;
  Rows<float> lse;
};

// Dynamic shared memory: keys [32][D + 1], values [32][D + 1], a query a warp [D].
template <typename T>
__global__ void attention_forward_kernel(AttentionShape s, DropoutRule dropout, std::int64_t tiles,
                                         ForwardOperands<T> o) {
  LOCKSTEP_SHARED(float, weights, kWarps* kWarp);
  const int width = static_cast<int>(s.head_width);
  float* keys = dynamic_shared<float>();
  float* values = keys + kWarp * (width + 1);
  float* query_row = values + kWarp * (width + 1) + warp_of_thread() * width;
  const HeadTile at(blockIdx.x, s.heads, tiles);
  const std::int64_t kv_head = at.head / s.group();
  const std::int64_t first_row = at.sequence * s.length;
  const std::int64_t query = at.tile * kWarps + warp_of_thread();
  const bool inside = query < s.length;
  const std::int64_t row = first_row + (inside ? query : 0);
  load_own_row(o.q.row(row) + at.head * width, inside, width, query_row);

  float maximum = -INFINITY;
  float sum = 0.0F;
  float out[kColumns] = {};
  const std::int64_t end = key_end(s, at.tile * kWarps + kWarps - 1);
  for (std::int64_t key0 = 0; key0 < end; key0 += kWarp) {
    sync_threads();
    load_rows(o.k, first_row, key0, s.length, kv_head, width, keys);
    load_rows(o.v, first_row, key0, s.length, kv_head, width, values);
    sync_threads();
    const std::int64_t key = key0 + lane_of_thread();
    const bool seen = s.sees(query, key);
    const float score =
        seen ? s.scale * dot(query_row, keys + lane_of_thread() * (width + 1), width) : -INFINITY;
    const float new_maximum = combine_lanes(score > maximum ? score : maximum, MaximumOf{});
    const float reference = new_maximum == -INFINITY ? 0.0F : new_maximum;
    const float rescale = expf(maximum - reference);
    const float p = expf(score - reference);
    sum = sum * rescale + combine_lanes(p, AddOf{});
    maximum = new_maximum;
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      out[c] *= rescale;
    const float kept =
        seen ? p * probability_factor(dropout, s, at.sequence, at.head, query, key) : 0.0F;
    add_weighted_rows(kept, weights + warp_of_thread() * kWarp, values, width, out);
  }
  if (!inside) return;
  store_row(out, 1.0F / sum, width, o.out.row(row) + at.head * width);
  if (lane_of_thread() == 0) {
    o.lse.row(at.sequence * s.heads + at.head)[query] = maximum + logf(sum);
  }
}

template <typename T>
struct BackwardOperands {
  Rows<const T> dout, q, k, v, out;
  Rows<const float> lse;
  Rows<T> dq, dk, dv;
  float* delta;  // [B*H, T]: the sum over d of dout * out
};

// One warp to a query of a head.
template <typename T>
__global__ void attention_delta_kernel(AttentionShape s, std::int64_t rows, BackwardOperands<T> o) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp_of_thread();
  if (index >= rows) return;  // the whole warp
  const std::int64_t head = index / s.length % s.heads;
  const std::int64_t row = index / (s.length * s.heads) * s.length + index % s.length;
  const int width = static_cast<int>(s.head_width);
  float sum = 0.0F;
  for (int d = lane_of_thread(); d < width; d += kWarp)
    sum += to_float(o.dout.row(row)[head * width + d]) * to_float(o.out.row(row)[head * width + d]);
  sum = combine_lanes(sum, AddOf{});
  if (lane_of_thread() == 0) o.delta[index] = sum;
}

// dq. Dynamic shared memory: keys, values, and two rows a warp.
template <typename T>
__global__ void attention_dq_kernel(AttentionShape s, DropoutRule dropout, std::int64_t tiles,
                                    BackwardOperands<T> o) {
  LOCKSTEP_SHARED(float, weights, kWarps* kWarp);
  const int width = static_cast<int>(s.head_width);
  float* keys = dynamic_shared<float>();
  float* values = keys + kWarp * (width + 1);
  float* query_row = values + kWarp * (width + 1) + 2 * warp_of_thread() * width;
  float* dout_row = query_row + width;
  const HeadTile at(blockIdx.x, s.heads, tiles);
  const std::int64_t kv_head = at.head / s.group();
  const std::int64_t first_row = at.sequence * s.length;
  const std::int64_t query = at.tile * kWarps + warp_of_thread();
  const bool inside = query < s.length;
  const std::int64_t row = first_row + (inside ? query : 0);
  load_own_row(o.q.row(row) + at.head * width, inside, width, query_row);
  load_own_row(o.dout.row(row) + at.head * width, inside, width, dout_row);
  const std::int64_t statistics = at.sequence * s.heads + at.head;
  const float lse = inside ? o.lse.row(statistics)[query] : 0.0F;
  const float delta = inside ? o.delta[statistics * s.length + query] : 0.0F;

  float dq[kColumns] = {};
  const std::int64_t end = key_end(s, at.tile * kWarps + kWarps - 1);
  for (std::int64_t key0 = 0; key0 < end; key0 += kWarp) {
    sync_threads();
    load_rows(o.k, first_row, key0, s.length, kv_head, width, keys);
    load_rows(o.v, first_row, key0, s.length, kv_head, width, values);
    sync_threads();
    const std::int64_t key = key0 + lane_of_thread();
    float ds = 0.0F;
    if (s.sees(query, key)) {
      const int lane_row = lane_of_thread() * (width + 1);
      const float p = expf(s.scale * dot(query_row, keys + lane_row, width) - lse);
      const float dp = dot(dout_row, values + lane_row, width) *
                       probability_factor(dropout, s, at.sequence, at.head, query, key);
      ds = p * (dp - delta);
    }
    add_weighted_rows(ds, weights + warp_of_thread() * kWarp, keys, width, dq);
  }
  if (inside) store_row(dq, s.scale, width, o.dq.row(row) + at.head * width);
}

// dk and dv: a warp to a key, over the queries of every head that reads it. Dynamic shared memory:
// queries, douts, and two rows a warp.
template <typename T>
__global__ void attention_dkv_kernel(AttentionShape s, DropoutRule dropout, std::int64_t tiles,
                                     BackwardOperands<T> o) {
  LOCKSTEP_SHARED(float, weights, kWarps* kWarp);
  const int width = static_cast<int>(s.head_width);
  float* queries = dynamic_shared<float>();
  float* douts = queries + kWarp * (width + 1);
  float* key_row = douts + kWarp * (width + 1) + 2 * warp_of_thread() * width;
  float* value_row = key_row + width;
  const HeadTile at(blockIdx.x, s.kv_heads, tiles);
  const std::int64_t first_row = at.sequence * s.length;
  const std::int64_t key = at.tile * kWarps + warp_of_thread();
  const bool inside = key < s.length;
  const std::int64_t row = first_row + (inside ? key : 0);
  load_own_row(o.k.row(row) + at.head * width, inside, width, key_row);
  load_own_row(o.v.row(row) + at.head * width, inside, width, value_row);

  float dk[kColumns] = {};
  float dv[kColumns] = {};
  const std::int64_t first_query = s.causal ? at.tile * kWarps / kWarp * kWarp : 0;
  for (std::int64_t head = at.head * s.group(); head < (at.head + 1) * s.group(); ++head) {
    const std::int64_t statistics = at.sequence * s.heads + head;
    for (std::int64_t query0 = first_query; query0 < s.length; query0 += kWarp) {
      sync_threads();
      load_rows(o.q, first_row, query0, s.length, head, width, queries);
      load_rows(o.dout, first_row, query0, s.length, head, width, douts);
      sync_threads();
      const std::int64_t query = query0 + lane_of_thread();
      float kept = 0.0F;
      float ds = 0.0F;
      if (s.sees(query, key)) {
        const int lane_row = lane_of_thread() * (width + 1);
        const float factor = probability_factor(dropout, s, at.sequence, head, query, key);
        const float p =
            expf(s.scale * dot(key_row, queries + lane_row, width) - o.lse.row(statistics)[query]);
        const float dp = factor * dot(value_row, douts + lane_row, width);
        kept = p * factor;
        ds = p * (dp - o.delta[statistics * s.length + query]);
      }
      add_weighted_rows(kept, weights + warp_of_thread() * kWarp, douts, width, dv);
      add_weighted_rows(ds, weights + warp_of_thread() * kWarp, queries, width, dk);
    }
  }
  if (!inside) return;
  store_row(dk, s.scale, width, o.dk.row(row) + at.head * width);
  store_row(dv, 1.0F, width, o.dv.row(row) + at.head * width);
}

void check_width(const char* op, const AttentionSpec& spec) {
  if (spec.head_width <= kMostWidth) return;
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("{}: heads of {} elements; on a GPU a head has up to {}", op,
                                spec.head_width, kMostWidth));
}

// Of `heads` heads a sequence; `own_rows`: rows that a warp keeps in shared memory.
Grid grid_of(const AttentionSpec& spec, std::int64_t heads, std::int64_t tiles, int own_rows) {
  const std::int64_t width = spec.head_width;
  const std::int64_t floats = 2 * kWarp * (width + 1) + own_rows * kWarps * width;
  return {block_count(spec.sequences * heads * tiles), kWarps * kWarp,
          static_cast<std::size_t>(floats) * sizeof(float)};
}

}  // namespace

void attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                       ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  check_width("attention_forward", spec);
  const std::int64_t tiles = ceil_div(spec.length, kWarps);
  visit_compute(q.dtype(), [&](auto type) {
    using T = decltype(type);
    const ForwardOperands<T> operands{rows_of<const T>(q), rows_of<const T>(k), rows_of<const T>(v),
                                      rows_of<T>(out), rows_of<float>(lse)};
    launch("attention_forward", attention_forward_kernel<T>, grid_of(spec, spec.heads, tiles, 1),
           context.stream(), AttentionShape(spec), attention_dropout(spec), tiles, operands);
  });
}

void attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v,
                        ConstTensorView out, ConstTensorView lse, TensorView dq, TensorView dk,
                        TensorView dv) {
  check_width("attention_backward", spec);
  const std::int64_t tiles = ceil_div(spec.length, kWarps);
  const std::int64_t rows = spec.sequences * spec.heads * spec.length;
  auto* delta = reinterpret_cast<float*>(context.scratch(Carver::bytes<float>(rows)));
  const AttentionShape shape(spec);
  const DropoutRule dropout = attention_dropout(spec);
  visit_compute(q.dtype(), [&](auto type) {
    using T = decltype(type);
    const BackwardOperands<T> operands{rows_of<const T>(dout), rows_of<const T>(q),
                                       rows_of<const T>(k),    rows_of<const T>(v),
                                       rows_of<const T>(out),  rows_of<const float>(lse),
                                       rows_of<T>(dq),         rows_of<T>(dk),
                                       rows_of<T>(dv),         delta};
    launch("attention_delta", attention_delta_kernel<T>,
           Grid{block_count(ceil_div(rows, kWarps)), kWarps * kWarp, 0}, context.stream(), shape,
           rows, operands);
    launch("attention_dq", attention_dq_kernel<T>, grid_of(spec, spec.heads, tiles, 2),
           context.stream(), shape, dropout, tiles, operands);
    launch("attention_dkv", attention_dkv_kernel<T>, grid_of(spec, spec.kv_heads, tiles, 2),
           context.stream(), shape, dropout, tiles, operands);
  });
}

}  // namespace lockstep::ops::cuda
