#pragma once

#include <cstddef>
#include <span>

#include "comm/communicator.h"
#include "core/dtype.h"

namespace lockstep::comm {

// The one place where ranks' values are combined; backends only move bytes.
//
//   output[i] = ((base + sources[0][i]) + sources[1][i]) + ...,  i in [0, n)
//
// with base = output[i] under kAccumulate and absent under kOverwrite. fp32, bf16 and fp16 are
// combined in fp32, fp64 in fp64, integers in their own width (wrapping), each element from left to
// right, and rounded once to the output dtype: the same bits however a caller cuts the range.
// kMax and kMin: a NaN operand gives NaN.
//
// sources: at least one pointer, each to n elements of `dtype`. output: n elements of output_dtype,
// which is dtype, or fp32 when dtype is bf16 or fp16; it may equal a source of the same dtype (in
// place), not overlap one otherwise. Large overwritten outputs are stored past the caches.
void reduce_in_rank_order(core::DType dtype, std::span<const std::byte* const> sources,
                          core::DType output_dtype, std::byte* output, std::size_t n, ReduceOp op,
                          Output mode);

// Copies bytes; large copies are stored past the caches. No overlap.
void copy_bytes(const std::byte* from, std::byte* to, std::size_t bytes);

}  // namespace lockstep::comm
