#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "runtime/config/config.h"
#include "runtime/device/backend_device.h"
#include "runtime/plan/memory_plan.h"

// Whether every rank's memory plan fits, found out and agreed before anything is allocated. A rank
// that finds out later, half built, can only end the job.
namespace lockstep::runtime {

// What one rank finds out alone. Trivially copyable: it is the wire format. Bytes.
struct MemoryReport {
  std::array<char, 64> host{};   // cut to fit, ends in 0
  std::uint64_t needed = 0;      // of this rank's plan
  std::uint64_t limit = 0;       // memory.limit_mib; 0: none
  std::uint64_t mappable = 0;    // of `needed`, what the system lets this process map
  std::uint64_t node_total = 0;  // what the machine, or its control group, can hold at most
  std::uint64_t node_free = 0;   // what of that can still be taken
  std::int32_t device = -1;      // ordinal of the CUDA device; -1: none
  std::uint64_t device_needed = 0;
  std::uint64_t device_free = 0;
  std::uint64_t device_total = 0;
};
static_assert(std::is_trivially_copyable_v<MemoryReport>);

// plan: of this rank.
MemoryReport report_memory(const Config& config, const MemoryPlan& plan,
                           const BackendDevice& device);

// The lowest rank whose plan does not fit. rank -1: all fit.
struct MemoryShortage {
  int rank = -1;
  std::string host;
  std::uint64_t needed = 0;
  std::uint64_t budget = 0;  // what the rank may take
  std::string cause;         // what sets the budget, for people
  bool by_machine = false;   // the machine itself is too small for its ranks
  bool on_device = false;    // it is the device's memory that is short

  bool found() const { return rank >= 0; }
};
// Pure; reports[r] is rank r's. Refused are: more than memory.limit_mib; more than the system lets
// the process map; ranks of one host that together need more than it can hold at most; and ranks
// of one device that together need more than is free there.
MemoryShortage find_shortage(std::span<const MemoryReport> reports);

// One warning a host whose ranks need more than it has free now: the kernel may kill processes.
std::vector<std::string> memory_warnings(std::span<const MemoryReport> reports);

// The config to train with: `config` itself, or with memory.on_exhausted: halve_micro the one with
// the greatest batch.micro / 2^k that fits every rank. `health`: the members of a `health` line of
// metrics.jsonl about that, or empty.
struct FittedConfig {
  Config config;
  std::string health;
};

// Collective. Throws AgreedError(kOutOfMemory) naming rank, host, what it needs and may take, the
// plan's table and the smallest changes that fit. threads: of one rank.
FittedConfig fit_to_memory(const Config& config, int threads, comm::Communicator& communicator,
                           const BackendDevice& device, core::Logger& log);

}  // namespace lockstep::runtime
