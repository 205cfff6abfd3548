#include "tests/comm/conformance.h"

#include <gtest/gtest.h>

#include "core/check.h"
#include "tests/comm/conformance_tools.h"

namespace lockstep::comm::testing {

namespace {

using core::BFloat16;
using core::ConstTensorView;
using core::DType;
using core::DTypeOf;
using core::Float16;
using core::TensorView;

constexpr Memory kMemories[] = {Memory::kPlain, Memory::kShared, Memory::kOffset, Memory::kMixed};

constexpr std::size_t kSizes[] = {0, 1, 5, 127, 1000};
constexpr std::size_t kLarge = 300007;  // elements a rank; several staging chunks

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

  bool right = true;
  if constexpr (std::is_same_v<T, O>) {
    if (s.mode == Output::kOverwrite) {
      right = are_sums(site, s.in_place ? input.read(mine, s.n) : separate.read(0, s.n), mine, 1);
    }
  }
  if (s.mode == Output::kAccumulate || !std::is_same_v<T, O>) {
    std::vector<O> expected(s.n);
    for (std::size_t i = 0; i < s.n; ++i) {
      const O* start = s.mode == Output::kAccumulate ? &base[i] : nullptr;
      expected[i] = reference_reduce<T, O>(comm.world_size(), mine + i, 1, ReduceOp::kSum, start);
    }
    right = separate.equals(expected);
  }
  EXPECT_TRUE(right) << where(comm, s, core::name_of(DTypeOf<T>::value).data());
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
  Elements<T> input(site, tracker, s.memory, s.n, BufferUse::kCopied);
  Elements<T> output(site, tracker, s.memory, s.n * ranks, BufferUse::kCopied);
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
  if (s.op == ReduceOp::kSum) {
    const std::vector<T> sums = result.read(0, s.n);
    EXPECT_TRUE(are_sums(site, sums, 0, 4))
        << where(comm, s, core::name_of(DTypeOf<T>::value).data());
    if (!site.exact) {
      EXPECT_TRUE(ranks_agree(site, sums)) << "the ranks' results differ";
    }
  } else {
    std::vector<T> expected(s.n);
    for (std::size_t i = 0; i < s.n; ++i)
      expected[i] = reference_reduce<T, T>(comm.world_size(), i, 4, s.op, nullptr);
    EXPECT_TRUE(result.equals(expected)) << where(comm, s, core::name_of(DTypeOf<T>::value).data());
  }
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
  Elements<T> input(site, tracker, s.memory, s.n * ranks, BufferUse::kCopied);
  Elements<T> output(site, tracker, s.memory, s.n * ranks, BufferUse::kCopied);
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
    Elements<T> data(site, tracker, s.memory, s.n, BufferUse::kCopied);
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

}  // namespace

const std::vector<ConformanceCase>& conformance_cases() {
  static const std::vector<ConformanceCase> cases = [] {
    std::vector<ConformanceCase> all = {
        {"ReduceScatter", reduce_scatter_case},
        {"WideningReduceScatter", widening_case},
        {"AllGather", all_gather_case},
        {"AllReduce", all_reduce_case},
        {"AllToAll", all_to_all_case},
        {"Broadcast", broadcast_case},
        {"Large", large_case},
    };
    const auto& more = usage_cases();
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }();
  return cases;
}

}  // namespace lockstep::comm::testing
