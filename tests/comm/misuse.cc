#include <gtest/gtest.h>

#include <fmt/format.h>
#include <chrono>
#include <thread>

#include "tests/comm/conformance.h"
#include "tests/comm/expect_error.h"

namespace lockstep::comm::testing {

namespace {

using core::DType;
using core::TensorView;

constexpr int kCulprit = 1;

// All ranks but the culprit do `usual`, the culprit `other`; all must fail, naming it.
template <typename Usual, typename Other>
void expect_disagreement(Communicator& comm, std::initializer_list<std::string> parts, Usual usual,
                         Other other) {
  comm.barrier("together");
  const auto begin = std::chrono::steady_clock::now();
  expect_error(core::ErrorKind::kCommunication, parts, [&] {
    if (comm.rank() == kCulprit) {
      other();
    } else {
      usual();
    }
    comm.barrier("nobody gets here");
  });
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  expect_error(core::ErrorKind::kCommunication, parts, [&] { comm.barrier("still failed"); });
}

// As errors name the second collective of a case: the first is a barrier.
std::string second(const Site& site, const char* collective, const char* rest) {
  return fmt::format("{} #{} {}", collective, site.entered + 2, rest);
}

struct Floats {
  explicit Floats(const Site& site)
      : a(tracker, "test", 4096 * sizeof(float), site.device),
        b(tracker, "test", 4096 * sizeof(float), site.device) {}

  core::MemoryTracker tracker;
  core::Buffer a;
  core::Buffer b;
  TensorView in(std::int64_t n, DType dtype = DType::kF32) { return a.view(dtype, {n}); }
  TensorView out(std::int64_t n, DType dtype = DType::kF32) { return b.view(dtype, {n}); }
};

void different_operation(const Site& site) {
  Communicator& comm = site.comm;
  Floats f(site);
  const std::int64_t n = comm.world_size();
  expect_disagreement(
      comm,
      {"rank 1", second(site, "reduce_scatter", "(block.7, 4 x fp32)"),
       second(site, "all_gather", "(block.7, 4 x fp32)")},
      [&] { comm.reduce_scatter(f.in(4 * n), f.out(4), Output::kOverwrite, "block.7").wait(); },
      [&] { comm.all_gather(f.in(4), f.out(4 * n), "block.7").wait(); });
}

void different_size(const Site& site) {
  Communicator& comm = site.comm;
  Floats f(site);
  expect_disagreement(
      comm, {"rank 1", "(block.7, 100 x fp32)", "(block.7, 101 x fp32)"},
      [&] { comm.all_reduce(f.in(100), f.out(100), ReduceOp::kSum, "block.7").wait(); },
      [&] { comm.all_reduce(f.in(101), f.out(101), ReduceOp::kSum, "block.7").wait(); });
}

void different_dtype(const Site& site) {
  Communicator& comm = site.comm;
  Floats f(site);
  expect_disagreement(
      comm, {"rank 1", "100 x fp32", "100 x i32"},
      [&] { comm.broadcast(f.in(100), 0, "block.7").wait(); },
      [&] { comm.broadcast(f.in(100, DType::kI32), 0, "block.7").wait(); });
}

void different_order(const Site& site) {
  Communicator& comm = site.comm;
  Floats f(site);
  const auto reduce = [&](const char* label) {
    comm.all_reduce(f.in(100), f.out(100), ReduceOp::kSum, label).wait();
  };
  expect_disagreement(
      comm, {"rank 1", "block.7", "block.8"}, [&] { reduce("block.7"), reduce("block.8"); },
      [&] { reduce("block.8"), reduce("block.7"); });
}

// The others name the bucket that it left out, and the one that it came with instead.
void skipped_bucket(const Site& site) {
  Communicator& comm = site.comm;
  Floats f(site);
  const std::int64_t n = comm.world_size();
  const auto reduce = [&](const char* label) {
    comm.reduce_scatter(f.in(4 * n), f.out(4), Output::kOverwrite, label).wait();
  };
  expect_disagreement(
      comm,
      {"rank 1", second(site, "reduce_scatter", "(block.7, 4 x fp32)"),
       second(site, "reduce_scatter", "(block.6, 4 x fp32)")},
      [&] { reduce("block.7"), reduce("block.6"); }, [&] { reduce("block.6"); });
}

void missing_rank(const Site& site) {
  Communicator& comm = site.comm;
  comm.barrier("together");
  expect_error(
      core::ErrorKind::kCommunication,
      {"rank 1", "has not entered " + second(site, "reduce_scatter", "(block.7)"), " s; it last"},
      [&] {
        Floats f(site);
        const std::int64_t n = comm.world_size();
        if (comm.rank() != kCulprit) {
          const Deadline soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
          comm.reduce_scatter(f.in(4 * n), f.out(4), Output::kOverwrite, "block.7").wait(soon);
          // Where waits are events it is the device that waits, until it is freed.
          if (site.on_device()) site.stream->synchronize();
          comm.barrier("nobody gets here");
          return;
        }
        while (true) {  // busy elsewhere, until the others' verdict comes in
          comm.progress();
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
      });
}

void abort_is_spread(const Site& site) {
  Communicator& comm = site.comm;
  expect_error(core::ErrorKind::kData, {"rank 1", "failed: train.bin is truncated"}, [&] {
    comm.barrier("together");
    if (comm.rank() == kCulprit) comm.abort(core::ErrorKind::kData, "train.bin is truncated");
    comm.barrier("nobody gets here");
  });
}

}  // namespace

const std::vector<ConformanceCase>& misuse_cases() {
  static const std::vector<ConformanceCase> cases = {
      {"DifferentOperation", different_operation},
      {"DifferentSize", different_size},
      {"DifferentDtype", different_dtype},
      {"DifferentOrder", different_order},
      {"SkippedBucket", skipped_bucket},
      {"MissingRank", missing_rank},
      {"Abort", abort_is_spread},
  };
  return cases;
}

}  // namespace lockstep::comm::testing
