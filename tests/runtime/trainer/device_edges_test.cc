#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "comm/nccl/nccl_communicator.h"
#include "tests/comm/nccl_stand_in.h"
#include "tests/support/recorded_decision.h"
#include "tests/support/recorded_nccl.h"
#include "tests/support/recorded_ops.h"
#include "tests/support/step_edges.h"
#include "tests/support/trace_recording.h"
#include "tests/support/training_world.h"

// What orders the work of a step on a device: two ranks train over NCCL's stand-in, everything that
// they ask of their devices is recorded, and whatever touches the same memory must be ordered by
// streams, events and the host's waits, however fast each stream is. Then each event edge is taken
// away in turn, and the same check must fail.
namespace lockstep::testing {
namespace {

constexpr int kRanks = 2;
constexpr int kRounds = 2;
constexpr int kSteps = 3;   // recorded, from 1
constexpr int kSteady = 2;  // a step with recorded ones before and behind it

struct Case {
  const char* name;
  std::vector<std::string> overrides;
  bool boundary = false;
  bool whole_gradients = false;  // stage 0: parameters are not gathered, gradients are
  bool sums_in_place = false;    // what reductions leave is added to nothing
};

std::vector<Case> cases() {
  const std::vector<std::string> every_round = {"parallel.zero_stage=2",
                                                "parallel.grad_sync=every_round"};
  const std::vector<std::string> boundary = {"parallel.zero_stage=1",
                                             "parallel.grad_sync=boundary"};
  const auto with = [](std::vector<std::string> overrides, std::vector<std::string> more) {
    overrides.insert(overrides.end(), more.begin(), more.end());
    return overrides;
  };
  return {
      {.name = "every_round", .overrides = every_round},
      {.name = "every_round_bf16", .overrides = with(every_round, {"precision.compute=bf16"})},
      {.name = "every_round_cast", .overrides = with(every_round, {"parallel.reduce_type=bf16"})},
      {.name = "every_round_split",
       .overrides = with(every_round, {"model.tie_embeddings=false", "parallel.bucket_mib=0.001"})},
      {.name = "every_round_hashed", .overrides = with(every_round, {"parallel.verify_every=1"})},
      {.name = "every_round_tensor_norms",
       .overrides = with(every_round, {"clip.mode=tensor_norm"})},
      {.name = "every_round_without_overlap",
       .overrides = with(every_round, {"parallel.overlap=false"})},
      {.name = "every_round_stage_0",
       .overrides = with(every_round, {"parallel.zero_stage=0"}),
       .whole_gradients = true},
      {.name = "boundary", .overrides = boundary, .boundary = true, .sums_in_place = true},
      {.name = "boundary_cast",
       .overrides = with(boundary, {"parallel.reduce_type=bf16"}),
       .boundary = true},
      {.name = "boundary_stage_0",
       .overrides = with(boundary, {"parallel.zero_stage=0"}),
       .boundary = true,
       .whole_gradients = true,
       .sums_in_place = true},
  };
}

// What there must be for every bucket.
std::set<std::string> expected_edges(const Case& c) {
  std::set<std::string> edges = {"gradient ready before reduce", "reduce before refill",
                                 "norm before update"};
  if (c.sums_in_place) {
    edges.insert("reduce before norm");
  } else {
    edges.insert(
        {"reduce before accumulate", "accumulate before refill", "accumulate before norm"});
  }
  if (c.whole_gradients) {
    edges.insert({c.sums_in_place ? "reduce before gather" : "accumulate before gather",
                  "gather before update"});
  } else {
    edges.insert({"update before gather", "gather before use"});
  }
  return edges;
}

// One recorded run.
struct Recording {
  std::vector<DeviceTrace> traces;                 // by rank
  std::vector<std::vector<TracedBucket>> buckets;  // by rank, in the order of the layout
};

const char* config() {
  return "run: {seed: 7}\n"
         "model: {layers: 2, heads: 2, width: 16, context: 8, vocab: 32}\n"
         "data: {train: given by the test}\n"
         "batch: {global: 4, micro: 1}\n"
         "train: {steps: 100}\n"
         "optimizer: {learning_rate: 2e-3}\n"
         "schedule: {warmup_steps: 2}\n";
}

Recording record(const Case& c) {
  TrainingWorld world(config());
  Recording recording{std::vector<DeviceTrace>(kRanks),
                      std::vector<std::vector<TracedBucket>>(kRanks)};
  const core::DeviceRef device = core::open_device(recording_runtime(), 0);
  comm::testing::clear_nccl_state();
  comm::testing::nccl_state().at_once = true;
  TrainingRun run;
  run.overrides = c.overrides;
  run.ranks = kRanks;
  run.device = {device, &recorded_op_bodies(), &recorded_decision_bodies(), "recording stand-in"};
  run.connect = [&](std::unique_ptr<comm::Communicator> host) {
    return comm::make_nccl_communicator(std::move(host), device, recorded_nccl(), {});
  };
  run.body = [&](Rank& rank) {
    const auto r = static_cast<std::size_t>(rank.number());
    recording.buckets[r] = traced_buckets(rank.trainer.state(), rank.number(), kRanks);
    rank.trainer.step();  // what is allocated and made once
    {
      TraceRecording recorder(recording.traces[r], rank.communicator,
                              world.directory() / fmt::format("flight-{}", r));
      for (int step = 0; step < kSteps; ++step) {
        recorder.begin_step();
        rank.trainer.advance();
      }
    }
    rank.trainer.settle();
  };
  const TrainingResult result = world.train(run);
  comm::testing::nccl_state().at_once = false;
  EXPECT_FALSE(result.error.has_value()) << result.message;
  return recording;
}

const Recording& recording_of(const Case& c) {
  static std::map<std::string, Recording> all;
  const auto found = all.find(c.name);
  return found != all.end() ? found->second : all.emplace(c.name, record(c)).first->second;
}

class DeviceEdges : public ::testing::TestWithParam<Case> {
 protected:
  // Calls f(trace, buckets) for every rank.
  template <typename F>
  void for_each_rank(F&& f) {
    const Recording& recording = recording_of(GetParam());
    for (std::size_t r = 0; r < kRanks; ++r) {
      const ::testing::ScopedTrace scope(__FILE__, __LINE__, fmt::format("rank {}", r));
      f(recording.traces[r], recording.buckets[r]);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, DeviceEdges, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

std::vector<std::string> collectives_of(const DeviceTrace& trace, int step, const char* name) {
  std::vector<std::string> labels;
  for (const TraceCall& call : trace.calls)
    if (call.kind == CallKind::kCollective && call.step == step && call.name == name)
      labels.push_back(call.label);
  return labels;
}

TEST_P(DeviceEdges, BucketsAreLaunchedInReverseAndAlikeOnAllRanks) {
  for_each_rank([&](const DeviceTrace& trace, const std::vector<TracedBucket>& buckets) {
    std::vector<std::string> expected;
    for (int round = 0; round < (GetParam().boundary ? 1 : kRounds); ++round)
      for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket)
        expected.push_back(bucket->name);
    const DeviceTrace& first = recording_of(GetParam()).traces.front();
    for (int step = 1; step <= kSteps; ++step) {
      EXPECT_EQ(collectives_of(trace, step, "reduce_scatter"), expected);
      for (const char* name : {"reduce_scatter", "all_gather", "all_reduce", "broadcast"})
        EXPECT_EQ(collectives_of(trace, step, name), collectives_of(first, step, name)) << name;
    }
  });
}

// Else what follows would miss something.
TEST_P(DeviceEdges, EveryKernelSaysWhatItTouches) {
  for_each_rank([&](const DeviceTrace& trace, const auto&) {
    for (std::size_t i = 0; i < trace.calls.size(); ++i) {
      EXPECT_TRUE(trace.calls[i].kind != CallKind::kKernel || !trace.calls[i].label.empty())
          << trace.describe(i) << ": list its op in tests/support/recorded_ops.cc";
    }
    EXPECT_EQ(trace.unsaid_writes, std::vector<std::string>{});
  });
}

TEST_P(DeviceEdges, WhatTouchesTheSameMemoryIsOrdered) {
  for_each_rank([&](const DeviceTrace& trace, const auto&) {
    const DeviceOrder order(trace);
    const std::vector<Hazard> hazards = hazards_of(trace);
    EXPECT_FALSE(hazards.empty());
    for (const Hazard& hazard : hazards)
      ASSERT_TRUE(order.ordered(hazard.first, hazard.second)) << describe(trace, hazard);
  });
}

TEST_P(DeviceEdges, TheEdgesOfTheDesignHold) {
  for_each_rank([&](const DeviceTrace& trace, const std::vector<TracedBucket>& buckets) {
    const DeviceOrder order(trace);
    std::set<std::pair<std::string, std::string>> found;
    for (const NamedEdge& edge : named_edges(trace, buckets, kSteady)) {
      found.insert({edge.bucket, edge.name});
      EXPECT_TRUE(order.ordered(edge.first, edge.second)) << describe(trace, edge);
    }
    std::set<std::pair<std::string, std::string>> expected;
    for (const TracedBucket& bucket : buckets)
      for (const std::string& name : expected_edges(GetParam()))
        expected.insert({bucket.name, name});
    EXPECT_EQ(found, expected);
  });
}

// Whenever the host waits in the steady state, the stream that computes has work behind what the
// host waits for: the device never waits for the host.
TEST_P(DeviceEdges, TheDeviceNeverWaitsForTheHost) {
  for_each_rank([&](const DeviceTrace& trace, const auto&) {
    const auto computes = std::find_if(trace.calls.begin(), trace.calls.end(),
                                       [](const auto& c) { return c.kind == CallKind::kKernel; });
    ASSERT_NE(computes, trace.calls.end());
    const DeviceOrder order(trace);
    int waits = 0;
    for (const HostWait& wait : order.host_waits()) {
      if (wait.step < kSteady || !wait.waits) continue;
      ++waits;
      ASSERT_GT(wait.behind.size(), static_cast<std::size_t>(computes->stream));
      EXPECT_GT(wait.behind[static_cast<std::size_t>(computes->stream)], 0U)
          << trace.describe(wait.call);
    }
    EXPECT_GT(waits, 0);
  });
}

// From the measurements to everybody's decision, and from there to what it changes.
TEST_P(DeviceEdges, TheDecisionIsInItsPlace) {
  for_each_rank([&](const DeviceTrace& trace, const auto&) {
    const DeviceOrder order(trace);
    std::set<std::string> found;
    for (const NamedEdge& edge : decision_edges(trace, kSteady)) {
      found.insert(edge.name);
      EXPECT_TRUE(order.ordered(edge.first, edge.second)) << describe(trace, edge);
    }
    EXPECT_EQ(found, (std::set<std::string>{"norm before numbers", "numbers before exchange",
                                            "exchange before decision", "decision before update",
                                            "decision before next loss"}));
  });
}

// The waits of a step that say the same: the same stream waits for the same place of another. A
// communicator does not know whether its caller's stream was given anything since the last
// collective, so those launched one behind the other have an edge each.
std::vector<std::set<std::size_t>> edges_of_step(const DeviceTrace& trace, int step) {
  std::map<std::tuple<int, int, std::size_t>, std::set<std::size_t>> edges;
  for (std::size_t i = 0; i < trace.calls.size(); ++i) {
    const TraceCall& wait = trace.calls[i];
    if (wait.kind != CallKind::kWait || wait.step != step) continue;
    edges[{wait.stream, trace.waited_stream(i), trace.waited_work(i)}].insert(i);
  }
  std::vector<std::set<std::size_t>> sets;
  for (const auto& [place, waits] : edges)
    sets.push_back(waits);
  return sets;
}

// Waits that a step could do without. Where reductions leave the sums in their place, nothing is
// done with them between the waits for the buckets, so that the last wait serves for all; with
// whole gradients the all-gathers come behind the reductions on the communicator's stream, and are
// waited for; and behind those comes the exchange of the decision's numbers, which the update, the
// first to read what was gathered, waits for. The contract of Communicator, which knows of no such
// stream, asks for all of them.
bool is_known_to_be_spare(const Case& c, const DeviceTrace& trace, std::size_t wait,
                          const std::string& last_bucket) {
  const std::size_t work = trace.waited_work(wait);
  if (work == trace.calls.size()) return false;
  const TraceCall& waited = trace.calls[work];
  if (waited.name == "all_gather") return c.whole_gradients && waited.label == last_bucket;
  return c.sums_in_place && waited.name == "reduce_scatter" &&
         (c.whole_gradients || waited.label != last_bucket);
}

TEST_P(DeviceEdges, EachOneTakenAwayIsNoticed) {
  for_each_rank([&](const DeviceTrace& trace, const std::vector<TracedBucket>& buckets) {
    const std::vector<Hazard> hazards = hazards_of(trace);
    const auto edges = edges_of_step(trace, kSteady);
    EXPECT_GE(edges.size(), buckets.size());
    for (const std::set<std::size_t>& edge : edges) {
      const std::size_t wait = *edge.begin();
      EXPECT_EQ(DeviceOrder(trace, edge).holds(hazards),
                is_known_to_be_spare(GetParam(), trace, wait, buckets.front().name))
          << trace.describe_wait(wait);
    }
  });
}

// Each edge of the design that goes from stream to stream rests on the waits between its ends ...
TEST_P(DeviceEdges, TheEdgesOfTheDesignRestOnEvents) {
  for_each_rank([&](const DeviceTrace& trace, const std::vector<TracedBucket>& buckets) {
    std::set<std::string> cut;
    for (const NamedEdge& edge : named_edges(trace, buckets, kSteady)) {
      const int stream = trace.calls[edge.second].stream;
      if (trace.calls[edge.first].stream == stream) continue;
      std::set<std::size_t> between;
      for (std::size_t i = edge.first; i < edge.second; ++i)
        if (trace.calls[i].kind == CallKind::kWait && trace.calls[i].stream == stream)
          between.insert(i);
      EXPECT_FALSE(DeviceOrder(trace, between).ordered(edge.first, edge.second))
          << describe(trace, edge);
      cut.insert(edge.name);
    }
    for (const char* name : {"gradient ready before reduce", "reduce before accumulate",
                             "reduce before norm", "update before gather", "gather before use",
                             "accumulate before gather", "gather before update"})
      EXPECT_EQ(cut.contains(name), expected_edges(GetParam()).contains(name)) << name;
  });
}

// ... and one between two pieces of work of a stream on their being there: it is gone when the
// first strays to another stream.
TEST_P(DeviceEdges, WorkThatStraysFromItsStreamIsNoticed) {
  for_each_rank([&](const DeviceTrace& trace, const std::vector<TracedBucket>& buckets) {
    std::set<std::string> gone;
    for (const NamedEdge& edge : named_edges(trace, buckets, kSteady)) {
      if (trace.calls[edge.first].stream != trace.calls[edge.second].stream) continue;
      DeviceTrace changed = trace;
      changed.calls[edge.first].stream = 99;
      const DeviceOrder order(changed);
      EXPECT_FALSE(order.ordered(edge.first, edge.second)) << describe(trace, edge);
      if (!gone.insert(edge.name).second) continue;
      EXPECT_FALSE(order.holds(hazards_of(changed))) << describe(trace, edge);
    }
    EXPECT_TRUE(gone.contains("norm before update"));
  });
}

}  // namespace
}  // namespace lockstep::testing
