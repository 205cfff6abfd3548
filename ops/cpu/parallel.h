#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#include "ops/op_context.h"

namespace lockstep::ops::cpu {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// How many chunks parallel_chunks makes: for sizing arrays of partial results.
inline std::int64_t chunk_count(std::int64_t total, std::int64_t grain) {
  return ceil_div(total, grain);
}

// Calls f(begin, end, chunk) once for every chunk [chunk * grain, (chunk + 1) * grain) of
// [0, total) (the last may be shorter), on context.threads() threads in no particular order. The
// cut depends on total and grain alone, so neither may be computed from the number of threads. f
// must write only what belongs to its chunk; partial results go to a slot per chunk and are
// combined by the caller in order of chunk. Returns when all are done. If calls throw, the
// exception of the lowest chunk that threw is rethrown here, after the loop.
template <typename F>
void parallel_chunks(const OpContext& context, std::int64_t total, std::int64_t grain, F&& f) {
  const std::int64_t chunks = chunk_count(total, grain);
  const auto run = [&](std::int64_t chunk) {
    f(chunk * grain, std::min(total, (chunk + 1) * grain), chunk);
  };
  if (context.threads() == 1 || chunks <= 1) {
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
      run(chunk);
    return;
  }
  const int threads = static_cast<int>(std::min<std::int64_t>(context.threads(), chunks));
  std::exception_ptr failure;  // nothing may be thrown across the edge of a parallel region
  std::int64_t failed_chunk = chunks;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    try {
      run(chunk);
    } catch (...) {
#pragma omp critical(lockstep_parallel_chunks_failure)
      if (chunk < failed_chunk) {
        failed_chunk = chunk;
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

// A grain of rows such that a chunk holds about `elements` elements of rows `cols` wide: small
// enough to balance the load, large enough to hide the cost of starting a chunk.
inline std::int64_t rows_per_chunk(std::int64_t cols, std::int64_t elements = 16384) {
  return std::max<std::int64_t>(1, elements / std::max<std::int64_t>(1, cols));
}

}  // namespace lockstep::ops::cpu
