#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "runtime/sharding/model_state.h"
#include "tests/support/device_trace.h"

namespace lockstep::testing {

// A bucket as a trace knows it.
struct TracedBucket {
  std::string name;
  Access parameters;  // whole, in the compute type
  Access others;      // a part of them that this rank does not own; empty with one rank
};

// In the order of the layout.
std::vector<TracedBucket> traced_buckets(const runtime::ModelState& state, int rank, int ranks);

// Two pieces of work of which the design says that one comes before the other.
struct NamedEdge {
  std::string name;    // "gradient ready before reduce"
  std::string bucket;  // "block.1"
  std::size_t first = 0;
  std::size_t second = 0;
};

// All edges that every reduction of a bucket in a step stands for, found by what is done to its
// memory:
//   gradient ready before reduce, reduce before accumulate, accumulate before norm, norm before
//   update; reduce before refill and accumulate before refill of the memory that was sent;
//   with parameters in shards: update before gather, gather before use;
//   with a whole gradient on every rank: accumulate before gather, gather before update.
// Where the sum is left in its place there is no accumulation: reduce before norm. What lies
// behind the end of the trace is left out.
std::vector<NamedEdge> named_edges(const DeviceTrace& trace,
                                   const std::vector<TracedBucket>& buckets, int step);

// Those of a step's decision, bucket "": norm before numbers, numbers before exchange, exchange
// before decision, decision before update, decision before next loss. What lies behind the end of
// the trace is left out.
std::vector<NamedEdge> decision_edges(const DeviceTrace& trace, int step);

// "gradient ready before reduce, block.1: ... before ..."
std::string describe(const DeviceTrace& trace, const NamedEdge& edge);

}  // namespace lockstep::testing
