#include "launcher/bench/device_comm_bench.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/device_runtime.h"
#include "launcher/bench/ceilings.h"
#include "launcher/bench/operands.h"

namespace lockstep::launcher {

namespace {

using comm::Collective;
using comm::Communicator;
using core::DType;
using core::TensorView;
using ops::OpContext;

constexpr std::size_t kRing = 2;
constexpr const char* kLabel = "bench";

// Of all ranks, out of place: a reduction reads N vectors and writes one, a gather reads and writes
// N, an all-reduce is a reduction and a gather of the N - 1 slices that a rank has not summed.
double traffic_of(Collective collective, double ranks, double bytes) {
  const double reduction = (ranks + 1) * bytes;
  switch (collective) {
    case Collective::kReduceScatter:
      return reduction;
    case Collective::kAllGather:
      return 2 * ranks * bytes;
    default:
      return reduction + 2 * (ranks - 1) * bytes;
  }
}

double bus_factor_of(Collective collective, double ranks) {
  return (collective == Collective::kAllReduce ? 2.0 : 1.0) * (ranks - 1) / ranks;
}

// One collective of one dtype and size, timed by all ranks together.
class Timed {
 public:
  Timed(Communicator& comm, OpContext& context, core::MemoryTracker& memory, std::size_t bytes)
      : comm_(comm),
        context_(context),
        bytes_(bytes),
        first_(context.device_ref()),
        last_(context.device_ref()) {
    RandomPool pool(context, memory);
    for (Pair& pair : ring_) {
      pair.input = comm.allocate(bytes, "benchmark", memory);
      pair.output = comm.allocate(bytes, "benchmark", memory);
      pool.fill(view(pair.input, DType::kF32, bytes), RandomPool::Kind::kNormal);
    }
    context.wait();
  }

  CallTime measure(Collective collective, DType dtype, const TimingLimits& limits) {
    collective_ = collective;
    dtype_ = dtype;
    repetition(1);  // NCCL connects what it needs
    const double once = std::max(repetition(1), 1e-7);
    const int calls = static_cast<int>(
        std::clamp(std::ceil(limits.least_seconds / once), 1.0, 1.0 * TimingLimits::kMostCalls));
    const int fitting =
        static_cast<int>(std::clamp(limits.most_seconds / (once * calls), 0.0, 1e6));
    std::vector<double> seconds;
    for (int i = 0; i < std::clamp(fitting, 1, limits.repetitions); ++i)
      seconds.push_back(repetition(calls));
    std::sort(seconds.begin(), seconds.end());
    return {seconds[seconds.size() / 2], seconds.front(), seconds.back(),
            static_cast<int>(seconds.size())};
  }

 private:
  struct Pair {
    comm::SharedBuffer input;
    comm::SharedBuffer output;
    comm::Work work;
  };

  static TensorView view(const comm::SharedBuffer& buffer, DType dtype, std::size_t bytes) {
    return buffer.view(dtype, {static_cast<std::int64_t>(bytes / core::size_of(dtype))});
  }

  // Seconds of a call on the slowest rank, hence the same on all ranks.
  double repetition(int calls) {
    comm_.barrier(kLabel);
    call();  // behind it all ranks come to the first event together, and the host is ahead
    wait();
    first_.record(context_.stream());
    for (int i = 0; i < calls; ++i)
      call();
    wait();
    last_.record(context_.stream());
    context_.stream().synchronize();
    const auto all = comm_.all_gather_small(last_.seconds_since(first_), kLabel);
    return *std::max_element(all.begin(), all.end()) / calls;
  }

  void call() {
    Pair& pair = ring_[next_];
    next_ = (next_ + 1) % kRing;
    pair.work.wait();
    pair.work = launch(pair);
  }

  void wait() {
    for (Pair& pair : ring_)
      pair.work.wait();
  }

  comm::Work launch(const Pair& pair) {
    const std::size_t shard = bytes_ / static_cast<std::size_t>(comm_.world_size());
    const TensorView input = view(pair.input, dtype_, bytes_);
    const TensorView output = view(pair.output, dtype_, bytes_);
    switch (collective_) {
      case Collective::kReduceScatter:
        return comm_.reduce_scatter(input, view(pair.output, dtype_, shard),
                                    comm::Output::kOverwrite, kLabel);
      case Collective::kAllGather:
        return comm_.all_gather(view(pair.input, dtype_, shard), output, kLabel);
      default:
        return comm_.all_reduce(input, output, comm::ReduceOp::kSum, kLabel);
    }
  }

  Communicator& comm_;
  OpContext& context_;
  std::size_t bytes_;
  std::array<Pair, kRing> ring_;
  std::size_t next_ = 0;
  Collective collective_ = Collective::kAllReduce;
  DType dtype_ = DType::kF32;
  core::DeviceEvent first_;
  core::DeviceEvent last_;
};

// Bytes that all ranks read and write per second, each copying on its device at the same time.
double copy_rate_of_all(Communicator& comm, OpContext& context, core::MemoryTracker& memory,
                        const DeviceCommOptions& options) {
  comm.barrier(kLabel);
  const double own = measure_copy_rate(context, memory, options.copy_bytes, options.limits);
  double sum = 0.0;
  for (const double rate : comm.all_gather_small(own, kLabel))
    sum += rate;
  return sum;
}

}  // namespace

void measure_device_comm(Communicator& comm, OpContext& context, core::MemoryTracker& memory,
                         const DeviceCommOptions& options, const CommReport& report) {
  const double ranks = comm.world_size();
  const double copy_rate = copy_rate_of_all(comm, context, memory, options);
  for (const std::size_t size : options.sizes) {
    CommMeasurement result;
    result.bytes = divisible_size(size, comm.world_size());
    Timed timed(comm, context, memory, result.bytes);
    for (const Collective collective :
         {Collective::kReduceScatter, Collective::kAllGather, Collective::kAllReduce}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        result.collective = comm::name_of(collective);
        result.dtype = core::name_of(dtype);
        result.time = timed.measure(collective, dtype, options.limits);
        set_rates(result, bus_factor_of(collective, ranks),
                  traffic_of(collective, ranks, static_cast<double>(result.bytes)), copy_rate);
        report(result);
      }
    }
  }
}

}  // namespace lockstep::launcher
