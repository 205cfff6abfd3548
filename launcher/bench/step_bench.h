#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "runtime/config/config.h"
#include "runtime/device/backend_device.h"
#include "runtime/metrics/phase_clock.h"
#include "runtime/simulate/muon_cost.h"

namespace lockstep::launcher {

// How MFU counts the operations of a token: P parameters (the token table once), L blocks, width C,
// context T. A causal mask leaves half of the attention.
struct MfuConvention {
  std::string name;  // "6N+6LCT causal"
  double flop_per_token = 0.0;
};

struct RegionBytes {
  std::size_t planned = 0;  // as `lockstep plan` says
  std::size_t peak = 0;     // as allocated
};

// Training steps of a configuration, as they were measured. Figures of memory are of the rank that
// has most, times of phases the mean over ranks.
struct StepMeasurement {
  std::string device;       // "cuda:0"
  std::string device_name;  // "NVIDIA H200"
  int ranks = 1;
  int threads = 1;  // of a rank
  std::string comm;
  std::int64_t parameters = 0;
  std::int64_t micro_batch = 1;  // sequences
  std::int64_t rounds = 1;
  double tokens_per_step = 0.0;
  std::vector<double> step_seconds;  // in order
  double all_seconds = 0.0;  // of all of them on the slowest rank, until its device was done
  double first_loss = 0.0;
  double last_loss = 0.0;
  std::int64_t applied_steps = 0;
  runtime::PhaseSeconds phases;   // of all steps
  double wait_seconds = 0.0;      // of all steps, within the phases: for peers
  comm::CommTimes communication;  // of all steps
  std::vector<MfuConvention> conventions;
  std::optional<runtime::MuonCost> muon;  // with optimizer.name muon
  double iteration_seconds = 0.0;         // of all steps, of the rank with most; 0 on devices
  double measured_peak =
      0.0;  // FLOP/s that all ranks at once reach in a large square product; 0: no room
  std::int64_t peak_size = 0;   // of that product
  double datasheet_peak = 0.0;  // FLOP/s of all ranks; 0: not known
  std::size_t planned_bytes = 0;
  std::size_t planned_device_bytes = 0;  // of these, in the memory of the device
  std::size_t peak_bytes = 0;
  std::size_t device_used_bytes = 0;  // of all programs, as the device tells; 0 on CPUs
  std::map<std::string, RegionBytes> regions;

  double median_seconds() const;
  double tokens_per_second() const { return tokens_per_step / median_seconds(); }
};

// How many steps, of which kind.
struct StepBenchOptions {
  std::int64_t warmup = 3;
  std::int64_t steps = 10;
  bool synthetic = false;  // random tokens instead of data.train
};

// Trains on `device` with runtime::Trainer as `config` says, but for what ScratchRun alters, and
// measures the steps after the warm-up. The communicator must serve the device's memory.
// Collective; the result counts on rank 0. Throws AgreedError when memory or data do not suffice,
// when a step ends the run, and (kStopped) when `stop` was raised on any rank.
StepMeasurement measure_steps(runtime::Config config, const StepBenchOptions& options,
                              comm::Communicator& communicator,
                              const runtime::BackendDevice& device, const std::atomic<int>& stop,
                              core::Logger& log);

}  // namespace lockstep::launcher
