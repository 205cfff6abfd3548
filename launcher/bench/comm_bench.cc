#include "launcher/bench/comm_bench.h"

#include <algorithm>
#include <chrono>

#include "comm/reduce_kernels.h"
#include "core/check.h"

namespace lockstep::launcher {

namespace {

using comm::Communicator;
using comm::Output;
using comm::ReduceOp;
using core::DType;
using core::TensorView;

// Calls in one timed repetition: enough that a barrier's jitter does not show.
constexpr std::size_t kBytesPerRepetition = std::size_t{16} << 20;
constexpr std::size_t kMaxCalls = 500;

// Something that all ranks do together, with the bytes it moves per call.
struct Candidate {
  std::string collective;
  std::string dtype;
  double crossing = 0;  // bytes that reach one rank from others
  double traffic = 0;   // bytes read and written by all ranks
  std::function<void()> call;
  std::vector<double> seconds;
};

struct Buffers {
  comm::SharedBuffer input;
  comm::SharedBuffer output;
  TensorView in(DType dtype, std::size_t bytes) const { return view(input, dtype, bytes); }
  TensorView out(DType dtype, std::size_t bytes) const { return view(output, dtype, bytes); }
  static TensorView view(const comm::SharedBuffer& buffer, DType dtype, std::size_t bytes) {
    return buffer.view(dtype, {static_cast<std::int64_t>(bytes / core::size_of(dtype))});
  }
};

// Elementary traffic: a reduce-scatter reads N slices and writes one on each rank, a gather in
// place reads and writes N - 1 slices, an all-to-all N, a broadcast everything on N - 1 ranks.
std::vector<Candidate> make_candidates(Communicator& comm, const Buffers& b, std::size_t bytes) {
  const double n = comm.world_size();
  const double s = static_cast<double>(bytes);
  const double part = s / n * (n - 1);
  const std::size_t shard = bytes / static_cast<std::size_t>(comm.world_size());
  const std::size_t begin = shard * static_cast<std::size_t>(comm.rank());
  const TensorView own =
      b.input.view(DType::kF32, {static_cast<std::int64_t>(shard / sizeof(float))}, begin);
  const auto full = [&b, bytes](DType dtype) { return b.in(dtype, bytes); };
  std::vector<Candidate> all;
  all.push_back({"copy",
                 "",
                 0,
                 2 * n * s,
                 [&b, bytes] {
                   comm::copy_bytes(static_cast<const std::byte*>(b.input.data()),
                                    static_cast<std::byte*>(b.output.data()), bytes);
                 },
                 {}});
  all.push_back({"reduce_scatter",
                 "fp32",
                 part,
                 (n + 1) * s,
                 [&, full, shard] {
                   comm.reduce_scatter(full(DType::kF32), b.out(DType::kF32, shard),
                                       Output::kOverwrite, "bench")
                       .wait();
                 },
                 {}});
  all.push_back({"reduce_scatter",
                 "bf16->fp32",
                 part,
                 (n + 2) * s,
                 [&, full, shard] {
                   comm.reduce_scatter(full(DType::kBF16), b.out(DType::kF32, 2 * shard),
                                       Output::kOverwrite, "bench")
                       .wait();
                 },
                 {}});
  all.push_back({"all_gather",
                 "fp32",
                 part,
                 2 * n * part,
                 [&, full, own] { comm.all_gather(own, full(DType::kF32), "bench").wait(); },
                 {}});
  all.push_back(
      {"all_reduce",
       "fp32",
       2 * part,
       (n + 1) * s + 2 * n * part,
       [&, full] {
         comm.all_reduce(full(DType::kF32), full(DType::kF32), ReduceOp::kMax, "bench").wait();
       },
       {}});
  all.push_back({"broadcast",
                 "fp32",
                 n > 1 ? s : 0,
                 2 * (n - 1) * s,
                 [&, full] { comm.broadcast(full(DType::kF32), 0, "bench").wait(); },
                 {}});
  all.push_back({"all_to_all",
                 "fp32",
                 part,
                 2 * n * s,
                 [&, full, bytes] {
                   comm.all_to_all(full(DType::kF32), b.out(DType::kF32, bytes), "bench").wait();
                 },
                 {}});
  return all;
}

// Seconds per call, of the slowest rank.
double time_calls(Communicator& comm, const Candidate& candidate, std::size_t calls) {
  comm.barrier("bench");
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < calls; ++i)
    candidate.call();
  comm.barrier("bench");  // with more ranks than cores they take turns: the last one counts
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto all = comm.all_gather_small(seconds, "bench");
  return *std::max_element(all.begin(), all.end()) / static_cast<double>(calls);
}

CallTime call_time(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back(),
          static_cast<int>(seconds.size())};
}

void measure_size(Communicator& comm, std::size_t bytes, int repetitions,
                  const CommReport& report) {
  core::MemoryTracker tracker;
  Buffers buffers;
  buffers.input = comm.allocate(bytes, "benchmark", tracker);
  // fp32 sums of 16-bit shards need twice the shard's bytes: with one rank, more than the vector.
  const std::size_t sums = 2 * bytes / static_cast<std::size_t>(comm.world_size());
  buffers.output = comm.allocate(std::max(bytes, sums), "benchmark", tracker);
  std::vector<Candidate> candidates = make_candidates(comm, buffers, bytes);
  const std::size_t calls = std::clamp<std::size_t>(kBytesPerRepetition / bytes, 1, kMaxCalls);
  // In turns, because the speed of memory may change while this runs; the first round warms up.
  for (int repetition = 0; repetition <= repetitions; ++repetition) {
    for (Candidate& candidate : candidates) {
      const double seconds = time_calls(comm, candidate, calls);
      if (repetition > 0) candidate.seconds.push_back(seconds);
    }
  }
  const double copy_rate =
      candidates.front().traffic / call_time(candidates.front().seconds).seconds;
  for (const Candidate& candidate : candidates) {
    if (candidate.collective == "copy") continue;
    CommMeasurement result;
    result.collective = candidate.collective;
    result.dtype = candidate.dtype;
    result.bytes = bytes;
    result.time = call_time(candidate.seconds);
    set_rates(result, candidate.crossing / static_cast<double>(bytes), candidate.traffic,
              copy_rate);
    report(result);
  }
}

}  // namespace

void set_rates(CommMeasurement& m, double bus_factor, double traffic, double copy_rate) {
  m.algorithm_gb_per_s = static_cast<double>(m.bytes) / m.time.seconds / 1e9;
  m.bus_gb_per_s = bus_factor * m.algorithm_gb_per_s;
  m.copy_gb_per_s = copy_rate / 1e9;
  m.fraction_of_copy = traffic / m.time.seconds / copy_rate;
}

std::size_t divisible_size(std::size_t bytes, int ranks) {
  const std::size_t unit = 64 * sizeof(float) * static_cast<std::size_t>(ranks);
  return (bytes + unit - 1) / unit * unit;
}

void measure_comm(Communicator& communicator, const std::vector<std::size_t>& sizes,
                  int repetitions, const CommReport& report) {
  for (const std::size_t size : sizes)
    measure_size(communicator, divisible_size(size, communicator.world_size()), repetitions,
                 report);
}

}  // namespace lockstep::launcher
