// How collectives are used, rather than what they compute: in flight together, mixed, misused.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/check.h"
#include "tests/comm/conformance_tools.h"
#include "tests/comm/expect_error.h"

namespace lockstep::comm::testing {

namespace {

using core::BFloat16;
using core::DType;
using core::TensorView;

void small_case(const Site& site) {
  Communicator& comm = site.comm;
  struct Report {
    double norm;
    std::int32_t rank;
    char text[700];  // more than travels in a record
  };
  Report mine{1.5 * comm.rank(), comm.rank(), {}};
  fmt::format_to_n(mine.text, sizeof(mine.text) - 1, "report of rank {}", comm.rank());
  for (int round = 0; round < 100; ++round) {
    const auto reports = comm.all_gather_small(mine, "report");
    ASSERT_EQ(reports.size(), static_cast<std::size_t>(comm.world_size()));
    for (int r = 0; r < comm.world_size(); ++r) {
      const Report& report = reports[static_cast<std::size_t>(r)];
      EXPECT_EQ(report.rank, r);
      EXPECT_EQ(report.norm, 1.5 * r);
      EXPECT_EQ(std::string(report.text), fmt::format("report of rank {}", r));
    }
    comm.barrier("between");
  }
  for (const std::size_t unit : {0UL, 1UL, 1000UL, 100'000UL}) {
    const auto text_of = [&](int r) {
      return std::string(unit * static_cast<std::size_t>(r), static_cast<char>('a' + r));
    };
    const auto all = comm.all_gather_bytes(text_of(comm.rank()), "bytes");
    for (int r = 0; r < comm.world_size(); ++r)
      EXPECT_EQ(all[static_cast<std::size_t>(r)], text_of(r));
  }
}

// A ring of two slots, as gradient buckets use it: launched early, waited for late, refilled as
// soon as the peers have read. Ranks run at different speeds.
void ring_on_host(const Site& site) {
  Communicator& comm = site.comm;
  constexpr std::size_t kSlots = 2;
  constexpr std::size_t kShard = 5000;
  constexpr std::uint64_t kRounds = 150;  // more than the ring of records holds
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  const auto mine = static_cast<std::size_t>(comm.rank()) * kShard;
  for (const Memory memory : {Memory::kShared, Memory::kPlain}) {
    std::vector<std::optional<Elements<float>>> slots(kSlots);
    for (auto& slot : slots)
      slot.emplace(site, tracker, memory, kShard * ranks);
    Elements<float> shard(site, tracker, memory, kShard);
    std::vector<float> expected(kShard, 0.0F);
    Work work[kSlots];
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::size_t k = round % kSlots;
      work[k].wait_input();
      slots[k]->fill(input_of<float>(comm.rank(), kShard * ranks, round));
      work[k] = comm.reduce_scatter(slots[k]->view(), shard.view(), Output::kAccumulate, "ring");
      for (std::size_t i = 0; i < kShard; ++i) {
        expected[i] = reference_reduce<float, float>(comm.world_size(), mine + i, round,
                                                     ReduceOp::kSum, &expected[i]);
      }
      if (round % 7 == static_cast<std::uint64_t>(comm.rank()) % 7) comm.progress();
    }
    for (Work& w : work)
      w.wait();
    EXPECT_TRUE(shard.equals(expected)) << "rank " << comm.rank();
    EXPECT_TRUE(work[0].done());
  }
}

// The same on a device: the host runs ahead, and only events order copies to the slots, collectives
// and copies out of them.
void ring_on_device(const Site& site) {
  Communicator& comm = site.comm;
  constexpr std::size_t kSlots = 3;
  constexpr std::size_t kShard = 3000;
  constexpr std::size_t kRounds = 70;  // more than the ring of records holds
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  std::vector<std::optional<Elements<float>>> slots(kSlots);
  for (auto& slot : slots)
    slot.emplace(site, tracker, Memory::kShared, kShard * ranks);
  Elements<float> shard(site, tracker, Memory::kPlain, kShard);
  Elements<float> results(site, tracker, Memory::kPlain, kShard * kRounds);
  std::vector<std::vector<float>> inputs;  // the device may read them until the end
  Work work[kSlots];
  const auto take_result = [&](std::size_t round) {
    work[round % kSlots].wait_output();
    const std::size_t own = round % kSlots == 0 ? static_cast<std::size_t>(comm.rank()) : 0;
    float* from = round % kSlots == 0 ? slots[0]->data() + own * kShard : shard.data();
    site.stream->on_device(results.data() + round * kShard, from, kShard * sizeof(float));
  };
  for (std::size_t round = 0; round < kRounds; ++round) {
    const std::size_t k = round % kSlots;
    Elements<float>& slot = *slots[k];
    work[k].wait_input();
    inputs.push_back(input_of<float>(comm.rank(), kShard * ranks, round));
    site.stream->to_device(slot.data(), inputs.back().data(), kShard * ranks * sizeof(float));
    const TensorView in_place = slot.part(static_cast<std::size_t>(comm.rank()) * kShard, kShard);
    if (round > 0) take_result(round - 1);
    work[k] = comm.reduce_scatter(slot.view(), k == 0 ? in_place : shard.view(), Output::kOverwrite,
                                  "ring");
    if (round % 7 == static_cast<std::size_t>(comm.rank()) % 7) comm.progress();
  }
  take_result(kRounds - 1);
  const std::size_t mine = static_cast<std::size_t>(comm.rank()) * kShard;
  for (std::size_t round = 0; round < kRounds; ++round) {
    EXPECT_TRUE(are_sums(site, results.read(round * kShard, kShard), mine, round))
        << comm.rank() << " round " << round;
  }
  EXPECT_TRUE(work[0].done());
}

void ring_case(const Site& site) {
  site.on_device() ? ring_on_device(site) : ring_on_host(site);
}

void stats_case(const Site& site) {
  Communicator& comm = site.comm;
  constexpr std::size_t kShard = 4096;
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  Elements<BFloat16> full(site, tracker, Memory::kShared, kShard * ranks);
  Elements<BFloat16> shard(site, tracker, Memory::kShared, kShard);
  const CommunicatorStats before = comm.stats();
  comm.reduce_scatter(full.view(), shard.view(), Output::kOverwrite, "s").wait();
  comm.all_gather(shard.view(), full.view(), "s").wait();
  comm.all_reduce(full.view(), full.view(), ReduceOp::kSum, "s").wait();
  // Where waits are events, the memory may not go before the device is there.
  if (site.on_device()) site.stream->synchronize();
  const std::uint64_t part = (ranks - 1) * kShard * sizeof(BFloat16);  // (N-1)/N of the whole
  const auto moved = [&](Collective c) {
    const CollectiveStats& now = comm.stats()[c];
    EXPECT_EQ(now.bytes_sent - before[c].bytes_sent, now.bytes_received - before[c].bytes_received);
    return now.bytes_received - before[c].bytes_received;
  };
  EXPECT_EQ(moved(Collective::kReduceScatter), part);
  EXPECT_EQ(moved(Collective::kAllGather), part);
  EXPECT_EQ(moved(Collective::kAllReduce), 2 * part);
  EXPECT_EQ(
      comm.stats()[Collective::kReduceScatter].calls - before[Collective::kReduceScatter].calls,
      1U);
}

void allocate_case(const Site& site) {
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  const auto allocate = [&](std::size_t bytes) {
    return site.on_device() ? comm.allocate(bytes, "gradients", tracker)
                            : comm.allocate_host(bytes, "gradients", tracker);
  };
  const auto bytes = static_cast<std::size_t>(comm.rank()) * 10000;  // rank 0 has none
  {
    const SharedBuffer buffer = allocate(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(tracker.regions()["gradients"].current, bytes);
    EXPECT_EQ(core::to_string(buffer.device()), core::to_string(site.device.device));
    std::string data(bytes, 'x');
    if (site.on_device()) {
      site.stream->to_host(data.data(), buffer.data(), bytes);
    } else {
      std::copy_n(static_cast<const char*>(buffer.data()), bytes, data.data());
    }
    EXPECT_EQ(data, std::string(bytes, '\0'));
    comm.barrier("in use");
  }
  EXPECT_EQ(tracker.current(), 0U);
  // One rank asks for more than any machine has: all learn which.
  const int greedy = comm.world_size() - 1;
  expect_error(core::ErrorKind::kOutOfMemory, {fmt::format("rank {}", greedy), "gradients"}, [&] {
    const std::size_t wanted = comm.rank() == greedy ? std::size_t{1} << 63 : 4096;
    allocate(wanted);
  });
  EXPECT_EQ(tracker.current(), 0U);
  comm.barrier("still usable");
}

void arguments_case(const Site& site) {
  Communicator& comm = site.comm;
  const auto n = static_cast<std::int64_t>(comm.world_size());
  std::vector<float> a(static_cast<std::size_t>(4 * n + 4));
  std::vector<float> b(a.size());
  const auto view = [](std::vector<float>& v, std::int64_t count, DType dtype = DType::kF32) {
    return TensorView(v.data(), dtype, {count});
  };
  const auto refused = [&](const std::string& part, auto call) {
    expect_error(core::ErrorKind::kInternal, {part, "bucket"}, call);
  };
  refused("elements", [&] {
    comm.reduce_scatter(view(a, 4 * n + 1), view(b, 4), Output::kOverwrite, "bucket");
  });
  refused("elements", [&] { comm.all_gather(view(a, 4), view(b, 4 * n + 1), "bucket"); });
  refused("elements", [&] { comm.all_reduce(view(a, 4), view(b, 3), ReduceOp::kSum, "bucket"); });
  refused("same", [&] { comm.all_gather(view(a, 4, DType::kI32), view(b, 4 * n), "bucket"); });
  refused("cannot be reduced", [&] {
    comm.all_reduce(view(a, 4, DType::kU16), view(b, 4, DType::kU16), ReduceOp::kSum, "bucket");
  });
  refused("in place", [&] { comm.all_to_all(view(a, 2 * n), view(a, 2 * n), "bucket"); });
  refused("overlap", [&] {
    comm.all_gather(TensorView(a.data() + 4 * comm.rank() + 1, DType::kF32, {4}), view(a, 4 * n),
                    "bucket");
  });
  refused("root", [&] { comm.broadcast(view(a, 1), comm.world_size(), "bucket"); });
  refused("memory", [&] { comm.broadcast(TensorView(nullptr, DType::kF32, {3}), 0, "bucket"); });
  refused("strided", [&] {
    comm.broadcast(TensorView(a.data(), DType::kF32, {2, 1}, 2), 0, "bucket");
  });
  refused("cuda:7", [&] {
    const core::Device gpu{core::DeviceType::kCuda, comm.device().index + 7};
    comm.broadcast(TensorView(a.data(), DType::kF32, {2}, gpu), 0, "bucket");
  });
  comm.barrier("nothing was launched");
}

// What is refused on a device only.
void device_arguments_case(const Site& site) {
  if (!site.on_device()) return;
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  const auto n = static_cast<std::size_t>(comm.world_size());
  Elements<BFloat16> wire(site, tracker, Memory::kPlain, 4 * n);
  Elements<float> full(site, tracker, Memory::kPlain, 4 * n);
  Elements<float> shard(site, tracker, Memory::kPlain, 4);
  const auto refused = [&](const std::string& part, auto call) {
    expect_error(core::ErrorKind::kInternal, {part, "bucket"}, call);
  };
  refused("kAccumulate on device memory",
          [&] { comm.reduce_scatter(full.view(), shard.view(), Output::kAccumulate, "bucket"); });
  refused("input is bf16 and output is fp32",
          [&] { comm.reduce_scatter(wire.view(), shard.view(), Output::kOverwrite, "bucket"); });
  refused("must be on the same device", [&] {
    std::vector<float> host(4);
    comm.reduce_scatter(full.view(), TensorView(host.data(), DType::kF32, {4}), Output::kOverwrite,
                        "bucket");
  });
  comm.barrier("nothing was launched");
}

// Collectives on the host between collectives on the device, launched before any is waited for.
void mixed_case(const Site& site) {
  if (!site.on_device()) return;
  Communicator& comm = site.comm;
  constexpr std::size_t kCount = 3000;
  const Site host{comm};
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  for (std::uint64_t round = 0; round < 20; ++round) {
    Elements<float> device_data(site, tracker, Memory::kPlain, kCount * ranks);
    Elements<float> host_data(host, tracker, Memory::kPlain, kCount * ranks);
    const std::size_t mine = kCount * static_cast<std::size_t>(comm.rank());
    device_data.fill(input_of<float>(comm.rank(), kCount, round), mine);
    host_data.fill(input_of<float>(comm.rank(), kCount, round + 100), mine);
    Work first = comm.all_gather(device_data.part(mine, kCount), device_data.view(), "on device");
    Work second = comm.all_gather(host_data.part(mine, kCount), host_data.view(), "on host");
    const auto numbers = comm.all_gather_small(comm.rank(), "small");
    comm.barrier("between");
    second.wait();
    first.wait();
    for (int r = 0; r < comm.world_size(); ++r) {
      const auto at = static_cast<std::size_t>(r);
      EXPECT_EQ(numbers[at], r);
      EXPECT_TRUE(device_data.equals(input_of<float>(r, kCount, round), at * kCount));
      EXPECT_TRUE(host_data.equals(input_of<float>(r, kCount, round + 100), at * kCount));
    }
  }
}

}  // namespace

const std::vector<ConformanceCase>& usage_cases() {
  static const std::vector<ConformanceCase> cases = {
      {"Small", small_case},         {"RingOfSlots", ring_case},
      {"BytesMoved", stats_case},    {"Allocate", allocate_case},
      {"Arguments", arguments_case}, {"DeviceArguments", device_arguments_case},
      {"Mixed", mixed_case},
  };
  return cases;
}

}  // namespace lockstep::comm::testing
