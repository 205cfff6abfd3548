#include "tests/support/step_edges.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::testing {

namespace {

Access range_of(const core::ConstTensorView& view) {
  const auto begin = reinterpret_cast<std::uintptr_t>(view.raw());
  return {begin, begin + view.bytes(), false};
}

bool is_collective(const TraceCall& call, const char* name, const std::string& label) {
  return call.kind == CallKind::kCollective && call.name == name && call.label == label;
}

bool is_op(const TraceCall& call, const char* op) {
  return call.kind == CallKind::kKernel && call.label.starts_with(op);
}

// What follows from one reduction of a bucket.
class ReductionEdges {
 public:
  ReductionEdges(const DeviceTrace& trace, const TracedBucket& bucket, std::size_t reduce,
                 std::vector<NamedEdge>& edges)
      : trace_(trace), bucket_(bucket), reduce_(reduce), edges_(edges) {}

  void add_all() {
    const Access sent = trace_.calls[reduce_].touches.at(0);
    const Access received = trace_.calls[reduce_].touches.at(1);
    add("gradient ready before reduce",
        trace_.last_work(reduce_, [&](const TraceCall& c) { return c.writes(sent); }), reduce_);
    const std::size_t taken =
        trace_.next_work(reduce_, [&](const TraceCall& c) { return c.reads_or_writes(received); });
    const std::size_t refill =
        trace_.next_work(reduce_, [&](const TraceCall& c) { return c.writes(sent); });
    add("reduce before refill", reduce_, refill);
    if (taken < trace_.calls.size() && is_op(trace_.calls[taken], "accumulate")) {
      add("reduce before accumulate", reduce_, taken);
      add("accumulate before refill", taken, refill);
      add_from_sum(taken, sum_of(taken), "accumulate before norm", "accumulate before gather");
    } else {
      add_from_sum(reduce_, received, "reduce before norm", "reduce before gather");
    }
  }

 private:
  // What an accumulation writes.
  Access sum_of(std::size_t accumulate) const {
    const std::vector<Access>& touches = trace_.calls[accumulate].touches;
    return *std::find_if(touches.begin(), touches.end(), [](const Access& a) { return a.writes; });
  }

  void add_from_sum(std::size_t summed, const Access& sum, const char* before_norm,
                    const char* before_gather) {
    const auto measures = [&](const TraceCall& c) {
      return is_op(c, "sums_of_squares") && c.reads_or_writes(sum);
    };
    const std::size_t norm = trace_.next_work(summed, measures);
    const std::size_t update =
        trace_.next_work(norm, [](const TraceCall& c) { return is_op(c, "optimizer_update"); });
    const std::size_t gather = trace_.next_work(
        summed, [&](const TraceCall& c) { return is_collective(c, "all_gather", bucket_.name); });
    add(before_norm, summed, norm);
    add("norm before update", trace_.last_work(update, measures), update);
    if (gather < update) {
      add(before_gather, summed, gather);
      add("gather before update", gather, update);
    } else {
      add("update before gather", update, gather);
      add("gather before use", gather, trace_.next_work(gather, [&](const TraceCall& c) {
        return c.kind == CallKind::kKernel && c.reads_or_writes(bucket_.others);
      }));
    }
  }

  void add(const char* name, std::size_t first, std::size_t second) {
    if (first < trace_.calls.size() && second < trace_.calls.size())
      edges_.push_back({name, bucket_.name, first, second});
  }

  const DeviceTrace& trace_;
  const TracedBucket& bucket_;
  std::size_t reduce_;
  std::vector<NamedEdge>& edges_;
};

}  // namespace

std::vector<TracedBucket> traced_buckets(const runtime::ModelState& state, int rank, int ranks) {
  std::vector<TracedBucket> buckets;
  for (int b = 0; b < state.layout().size(); ++b) {
    TracedBucket bucket;
    bucket.name = state.layout()[b].spec.name;
    bucket.parameters = range_of(state.bucket_parameters(b));
    const std::uintptr_t part =
        (bucket.parameters.end - bucket.parameters.begin) / static_cast<std::uintptr_t>(ranks);
    const int other = rank == 0 ? ranks - 1 : 0;
    bucket.others.begin = bucket.parameters.begin + part * static_cast<std::uintptr_t>(other);
    bucket.others.end = bucket.others.begin + (other == rank ? 0 : part);
    buckets.push_back(std::move(bucket));
  }
  return buckets;
}

std::vector<NamedEdge> named_edges(const DeviceTrace& trace,
                                   const std::vector<TracedBucket>& buckets, int step) {
  std::vector<NamedEdge> edges;
  for (std::size_t i = 0; i < trace.calls.size(); ++i) {
    const TraceCall& call = trace.calls[i];
    if (call.step != step) continue;
    for (const TracedBucket& bucket : buckets)
      if (is_collective(call, "reduce_scatter", bucket.name))
        ReductionEdges(trace, bucket, i, edges).add_all();
  }
  return edges;
}

std::vector<NamedEdge> decision_edges(const DeviceTrace& trace, int step) {
  const std::size_t none = trace.calls.size();
  const auto next = [&](std::size_t after, const char* op) {
    return after == none ? none
                         : trace.next_work(after, [&](const TraceCall& c) { return is_op(c, op); });
  };
  std::vector<NamedEdge> edges;
  const auto add = [&](const char* name, std::size_t first, std::size_t second) {
    if (first < none && second < none) edges.push_back({name, "", first, second});
  };
  for (std::size_t i = 0; i < none; ++i) {
    if (trace.calls[i].step != step || !is_op(trace.calls[i], "add_up_step")) continue;
    const std::size_t exchange = trace.next_work(
        i, [](const TraceCall& c) { return is_collective(c, "all_gather", "step_numbers"); });
    const std::size_t decision = next(i, "decide");
    add("norm before numbers",
        trace.last_work(i, [](const TraceCall& c) { return is_op(c, "sums_of_squares"); }), i);
    add("numbers before exchange", i, exchange);
    add("exchange before decision", exchange, decision);
    add("decision before update", decision, next(decision, "optimizer_update"));
    add("decision before next loss", decision, next(decision, "cross_entropy"));
  }
  return edges;
}

std::string describe(const DeviceTrace& trace, const NamedEdge& edge) {
  return fmt::format("{}, {}: {} before {}", edge.name, edge.bucket, trace.describe(edge.first),
                     trace.describe(edge.second));
}

}  // namespace lockstep::testing
