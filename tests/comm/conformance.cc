#include "tests/comm/conformance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <optional>

#include "core/check.h"
#include "tests/comm/expect_error.h"
#include "tests/comm/reference.h"

namespace lockstep::comm::testing {

namespace {

using core::BFloat16;
using core::ConstTensorView;
using core::DType;
using core::DTypeOf;
using core::Float16;
using core::TensorView;

// Where the buffers of a call lie. kOffset: shared, three elements behind an aligned address.
enum class Memory { kPlain, kShared, kOffset, kMixed };
constexpr Memory kMemories[] = {Memory::kPlain, Memory::kShared, Memory::kOffset, Memory::kMixed};

constexpr std::size_t kSizes[] = {0, 1, 5, 127, 1000};
constexpr std::size_t kLarge = 300007;  // elements a rank; several staging chunks

// n elements of T on this rank, in memory of the wanted kind. Collective when shared.
template <typename T>
class Elements {
 public:
  Elements(const Site& site, core::MemoryTracker& tracker, Memory memory, std::size_t n)
      : site_(site), n_(n) {
    Communicator& comm = site.comm;
    if (memory != Memory::kPlain) {
      const std::size_t bytes = (n + 3) * sizeof(T);
      shared_ = site.on_device() ? comm.allocate(bytes, "test", tracker)
                                 : comm.allocate_host(bytes, "test", tracker);
    }
    if (memory == Memory::kMixed) {
      memory = comm.rank() % 2 == 0 ? Memory::kShared : Memory::kPlain;
    }
    if (memory == Memory::kPlain) {
      plain_ = core::Buffer(tracker, "test", (n + 1) * sizeof(T), site.device);
      data_ = static_cast<T*>(plain_.data());
    } else {
      data_ = static_cast<T*>(shared_.data()) + (memory == Memory::kOffset ? 3 : 0);
    }
  }

  T* data() { return data_; }
  TensorView view() { return part(0, n_); }
  TensorView part(std::size_t begin, std::size_t count) {
    return TensorView(data_ + begin, DTypeOf<T>::value, {static_cast<std::int64_t>(count)},
                      site_.device.device);
  }
  void fill(const std::vector<T>& values, std::size_t at = 0) {
    if (values.empty()) return;
    if (site_.on_device()) {
      site_.stream->to_device(data_ + at, values.data(), values.size() * sizeof(T));
      site_.stream->synchronize();  // the values may go
    } else {
      std::memcpy(data_ + at, values.data(), values.size() * sizeof(T));
    }
  }
  std::vector<T> read(std::size_t at, std::size_t count) const {
    std::vector<T> values(count);
    if (count == 0) return values;
    if (site_.on_device()) {
      site_.stream->to_host(values.data(), data_ + at, count * sizeof(T));
    } else {
      std::memcpy(values.data(), data_ + at, count * sizeof(T));
    }
    return values;
  }
  template <typename U>  // never equal to another type than T
  bool equals(const std::vector<U>& values, std::size_t at = 0) const {
    if constexpr (std::is_same_v<T, U>) {
      return same_bits(read(at, values.size()).data(), values.data(), values.size());
    }
    return false;
  }

 private:
  const Site& site_;
  std::size_t n_;
  core::Buffer plain_;
  SharedBuffer shared_;
  T* data_ = nullptr;
};

struct Setting {
  Memory memory = Memory::kPlain;
  std::size_t n = 0;
  bool in_place = false;
  Output mode = Output::kOverwrite;
  ReduceOp op = ReduceOp::kSum;
};

std::string where(const Communicator& comm, const Setting& s, const char* dtype) {
  return fmt::format("rank {}/{} {} n={} memory={} in_place={} mode={} op={}", comm.rank(),
                     comm.world_size(), dtype, s.n, static_cast<int>(s.memory), s.in_place,
                     static_cast<int>(s.mode), static_cast<int>(s.op));
}

template <typename T, typename O>
void check_reduce_scatter(const Site& site, const Setting& s) {
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  const auto mine = static_cast<std::size_t>(comm.rank()) * s.n;
  Elements<T> input(site, tracker, s.memory, s.n * ranks);
  Elements<O> separate(site, tracker, s.memory, s.n);
  const auto values = input_of<T>(comm.rank(), s.n * ranks, 1);
  input.fill(values);
  const auto base = input_of<O>(comm.rank(), s.n, 2);
  separate.fill(base);
  const TensorView output = s.in_place ? input.part(mine, s.n) : separate.view();
  comm.reduce_scatter(input.view(), output, s.mode, "conformance").wait();

  std::vector<O> expected(s.n);
  for (std::size_t i = 0; i < s.n; ++i) {
    const O* start = s.mode == Output::kAccumulate ? &base[i] : nullptr;
    expected[i] = reference_reduce<T, O>(comm.world_size(), mine + i, 1, ReduceOp::kSum, start);
  }
  EXPECT_TRUE(s.in_place ? input.equals(expected, mine) : separate.equals(expected))
      << where(comm, s, core::name_of(DTypeOf<T>::value).data());
  if (!s.in_place) {
    EXPECT_TRUE(input.equals(values)) << "the input was changed";
  }
}

template <typename T>
void check_all_gather(const Site& site, const Setting& s) {
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  const auto mine = static_cast<std::size_t>(comm.rank()) * s.n;
  Elements<T> input(site, tracker, s.memory, s.n);
  Elements<T> output(site, tracker, s.memory, s.n * ranks);
  const auto values = input_of<T>(comm.rank(), s.n, 3);
  input.fill(values);
  if (s.in_place) output.fill(values, mine);
  comm.all_gather(s.in_place ? output.part(mine, s.n) : input.view(), output.view(), "conformance")
      .wait();
  for (int r = 0; r < comm.world_size(); ++r) {
    EXPECT_TRUE(output.equals(input_of<T>(r, s.n, 3), static_cast<std::size_t>(r) * s.n))
        << where(comm, s, core::name_of(DTypeOf<T>::value).data()) << " part " << r;
  }
}

template <typename T>
void check_all_reduce(const Site& site, const Setting& s) {
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  Elements<T> input(site, tracker, s.memory, s.n);
  Elements<T> output(site, tracker, s.memory, s.n);
  const auto values = input_of<T>(comm.rank(), s.n, 4);
  input.fill(values);
  Elements<T>& result = s.in_place ? input : output;
  comm.all_reduce(input.view(), result.view(), s.op, "conformance").wait();
  std::vector<T> expected(s.n);
  for (std::size_t i = 0; i < s.n; ++i)
    expected[i] = reference_reduce<T, T>(comm.world_size(), i, 4, s.op, nullptr);
  EXPECT_TRUE(result.equals(expected)) << where(comm, s, core::name_of(DTypeOf<T>::value).data());
  if (!s.in_place) {
    EXPECT_TRUE(input.equals(values)) << "the input was changed";
  }
}

template <typename T>
void check_all_to_all(const Site& site, const Setting& s) {
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  const auto ranks = static_cast<std::size_t>(comm.world_size());
  const auto mine = static_cast<std::size_t>(comm.rank()) * s.n;
  Elements<T> input(site, tracker, s.memory, s.n * ranks);
  Elements<T> output(site, tracker, s.memory, s.n * ranks);
  input.fill(input_of<T>(comm.rank(), s.n * ranks, 5));
  comm.all_to_all(input.view(), output.view(), "conformance").wait();
  for (int r = 0; r < comm.world_size(); ++r) {
    const auto theirs = input_of<T>(r, s.n * ranks, 5);
    const auto first = theirs.begin() + static_cast<std::ptrdiff_t>(mine);
    const std::vector<T> expected(first, first + static_cast<std::ptrdiff_t>(s.n));
    EXPECT_TRUE(output.equals(expected, static_cast<std::size_t>(r) * s.n))
        << where(comm, s, core::name_of(DTypeOf<T>::value).data()) << " part " << r;
  }
}

template <typename T>
void check_broadcast(const Site& site, const Setting& s) {
  Communicator& comm = site.comm;
  core::MemoryTracker tracker;
  for (int root = 0; root < comm.world_size(); ++root) {
    Elements<T> data(site, tracker, s.memory, s.n);
    data.fill(input_of<T>(comm.rank(), s.n, 6));
    comm.broadcast(data.view(), root, "conformance").wait();
    EXPECT_TRUE(data.equals(input_of<T>(root, s.n, 6)))
        << where(comm, s, core::name_of(DTypeOf<T>::value).data()) << " root " << root;
  }
}

// check(T{}, setting) for every dtype that can be reduced, memory kind and size; the rarer memory
// kinds with two dtypes.
template <typename Check>
void for_all(Check check, std::initializer_list<bool> in_place) {
  for (const Memory memory : kMemories) {
    for (const std::size_t n : kSizes) {
      for (const bool place : in_place) {
        const Setting s{memory, n, place};
        check(float{}, s);
        check(BFloat16{}, s);
        if (memory != Memory::kPlain && memory != Memory::kShared) continue;
        check(Float16{}, s);
        check(double{}, s);
        check(std::int32_t{}, s);
        check(std::int64_t{}, s);
        check(std::uint8_t{}, s);
      }
    }
  }
}

void reduce_scatter_case(const Site& site) {
  for_all(
      [&](auto tag, const Setting& s) {
        using T = decltype(tag);
        check_reduce_scatter<T, T>(site, s);
        if (s.in_place || site.on_device()) return;
        Setting accumulate = s;
        accumulate.mode = Output::kAccumulate;
        check_reduce_scatter<T, T>(site, accumulate);
      },
      {false, true});
}

void widening_case(const Site& site) {
  if (site.on_device()) return;  // refused there, see device_arguments_case
  for (const Memory memory : kMemories) {
    for (const Output mode : {Output::kOverwrite, Output::kAccumulate}) {
      for (const std::size_t n : kSizes) {
        const Setting s{memory, n, false, mode};
        check_reduce_scatter<BFloat16, float>(site, s);
        check_reduce_scatter<Float16, float>(site, s);
      }
    }
  }
}

void all_gather_case(const Site& site) {
  for_all([&](auto tag, const Setting& s) { check_all_gather<decltype(tag)>(site, s); },
          {false, true});
}

void all_reduce_case(const Site& site) {
  for_all(
      [&](auto tag, Setting s) {
        for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
          s.op = op;
          check_all_reduce<decltype(tag)>(site, s);
        }
      },
      {false, true});
}

void all_to_all_case(const Site& site) {
  for_all([&](auto tag, const Setting& s) { check_all_to_all<decltype(tag)>(site, s); }, {false});
}

void broadcast_case(const Site& site) {
  for_all([&](auto tag, const Setting& s) { check_broadcast<decltype(tag)>(site, s); }, {false});
}

void large_case(const Site& site) {
  for (const Memory memory : {Memory::kPlain, Memory::kShared, Memory::kMixed}) {
    const Setting s{memory, kLarge};
    check_reduce_scatter<float, float>(site, s);
    if (!site.on_device()) {
      check_reduce_scatter<BFloat16, float>(site, {memory, kLarge, false, Output::kAccumulate});
    }
    check_reduce_scatter<BFloat16, BFloat16>(site, {memory, kLarge, true});
    check_all_gather<float>(site, s);
    check_all_gather<BFloat16>(site, {memory, kLarge, true});
    check_all_reduce<float>(site, {memory, 3 * kLarge});
    check_all_reduce<Float16>(site, {memory, 3 * kLarge, true});
    check_all_to_all<double>(site, s);
    check_broadcast<float>(site, {memory, 3 * kLarge});
  }
}

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
    std::vector<float> expected(kShard);
    for (std::size_t i = 0; i < kShard; ++i) {
      expected[i] = reference_reduce<float, float>(comm.world_size(), mine + i, round,
                                                   ReduceOp::kSum, nullptr);
    }
    EXPECT_TRUE(results.equals(expected, round * kShard)) << comm.rank() << " round " << round;
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

const std::vector<ConformanceCase>& conformance_cases() {
  static const std::vector<ConformanceCase> cases = {
      {"ReduceScatter", reduce_scatter_case},
      {"WideningReduceScatter", widening_case},
      {"AllGather", all_gather_case},
      {"AllReduce", all_reduce_case},
      {"AllToAll", all_to_all_case},
      {"Broadcast", broadcast_case},
      {"Large", large_case},
      {"Small", small_case},
      {"RingOfSlots", ring_case},
      {"BytesMoved", stats_case},
      {"Allocate", allocate_case},
      {"Arguments", arguments_case},
      {"DeviceArguments", device_arguments_case},
      {"Mixed", mixed_case},
  };
  return cases;
}

}  // namespace lockstep::comm::testing
