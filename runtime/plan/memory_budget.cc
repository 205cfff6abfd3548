#include "runtime/plan/memory_budget.h"

#include <fmt/format.h>
#include <unistd.h>

#include <map>
#include <optional>

#include "comm/mpi/available_memory.h"
#include "core/counted.h"
#include "core/memory.h"
#include "runtime/plan/memory_advice.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/ranks/agree.h"

namespace lockstep::runtime {

namespace {

double mebibytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1048576.0;
}

// What the ranks of one host need together, by its name.
struct Node {
  std::uint64_t needed = 0;
  std::uint64_t ranks = 0;
  std::uint64_t total = 0;
  std::uint64_t free = 0;
};

std::map<std::string, Node> nodes_of(std::span<const MemoryReport> reports) {
  std::map<std::string, Node> nodes;
  for (const MemoryReport& report : reports) {
    Node& node = nodes[report.host.data()];
    node.needed += report.needed;
    node.ranks += 1;
    node.total = report.node_total;
    node.free = report.node_free;
  }
  return nodes;
}

// What the ranks of one device need together, by host and ordinal.
struct SharedDevice {
  std::uint64_t needed = 0;
  std::uint64_t ranks = 0;
  std::uint64_t free = 0;
};

using DeviceKey = std::pair<std::string, std::int32_t>;

std::map<DeviceKey, SharedDevice> devices_of(std::span<const MemoryReport> reports) {
  std::map<DeviceKey, SharedDevice> devices;
  for (const MemoryReport& report : reports) {
    if (report.device < 0) continue;
    SharedDevice& device = devices[{report.host.data(), report.device}];
    device.needed += report.device_needed;
    device.ranks += 1;
    // Ranks that share a device ask one after the other.
    device.free =
        device.ranks == 1 ? report.device_free : std::min(device.free, report.device_free);
  }
  return devices;
}

// Whether the device of report `r` is short of memory; then `shortage` says how.
bool device_is_short(std::span<const MemoryReport> reports, std::size_t r,
                     MemoryShortage& shortage) {
  const MemoryReport& report = reports[r];
  if (report.device < 0) return false;
  const SharedDevice device = devices_of(reports).at({report.host.data(), report.device});
  if (device.needed <= device.free) return false;
  shortage.needed = report.device_needed;
  shortage.budget = device.free / device.ranks;
  shortage.cause =
      fmt::format("CUDA device {} has {:.1f} MiB free of {:.1f} MiB, for {} rank{}", report.device,
                  mebibytes(device.free), mebibytes(report.device_total), device.ranks,
                  device.ranks == 1 ? "" : "s");
  shortage.by_machine = true;
  shortage.on_device = true;
  return true;
}

std::string describe(const MemoryShortage& shortage) {
  return fmt::format("rank {} (host {}) needs {:.1f} MiB and may take {:.1f} MiB ({})",
                     shortage.rank, shortage.host, mebibytes(shortage.needed),
                     mebibytes(shortage.budget), shortage.cause);
}

std::string health_fields(const Config& asked, const MemoryShortage& shortage, std::int64_t micro,
                          std::int64_t rounds) {
  return fmt::format(
      R"("kind":"micro_batch_halved","asked_micro":{},"micro":{},"rounds":{},"rank":{},)"
      R"("needed_bytes":{},"budget_bytes":{})",
      asked.batch.micro, micro, rounds, shortage.rank, shortage.needed, shortage.budget);
}

std::string describe_shortage(const MemoryShortage& shortage, const Config& config, int world_size,
                              int threads) {
  const MemoryPlan plan = plan_memory(config, world_size, threads, shortage.rank);
  const std::vector<MemoryAdvice> advice = advise_memory(config, world_size, threads, shortage.rank,
                                                         shortage.budget, !shortage.by_machine);
  const std::string way_out =
      advice.empty() ? "no batch.micro, no memory.recompute and no parallel.zero_stage fits: it "
                       "takes a smaller model (or global batch) or more memory"
                     : "what would fit: " + to_text(advice);
  return fmt::format("{}; nothing was allocated\n{}{}", describe(shortage), to_table(plan, nullptr),
                     way_out);
}

std::vector<MemoryReport> exchange_reports(const Config& config, int threads,
                                           comm::Communicator& communicator,
                                           const BackendDevice& device) {
  const MemoryPlan plan =
      plan_memory(config, communicator.world_size(), threads, communicator.rank());
  return communicator.all_gather_small(report_memory(config, plan, device), "memory_report");
}

}  // namespace

MemoryReport report_memory(const Config& config, const MemoryPlan& plan,
                           const BackendDevice& device) {
  MemoryReport report;
  gethostname(report.host.data(), report.host.size() - 1);
  report.needed = plan.host_bytes();
  if (!device.on_cpu()) {
    std::size_t free = 0;
    std::size_t total = 0;
    const core::DeviceRuntime& runtime = *device.device.runtime;
    core::check_device(runtime, runtime.memory_info(device.device.device.index, &free, &total),
                       "asking for the memory of the device");
    report.device = device.device.device.index;
    report.device_needed = plan.device_bytes();
    report.device_free = free;
    report.device_total = total;
  }
  report.limit = static_cast<std::uint64_t>(config.memory.limit_mib * 1048576.0);
  report.mappable = core::mappable_bytes(report.needed);
  report.node_total = comm::memory_capacity();
  report.node_free = comm::available_memory();
  return report;
}

MemoryShortage find_shortage(std::span<const MemoryReport> reports) {
  std::map<std::string, Node> nodes = nodes_of(reports);
  for (std::size_t r = 0; r < reports.size(); ++r) {
    const MemoryReport& report = reports[r];
    MemoryShortage shortage{static_cast<int>(r), report.host.data(), report.needed, 0, "", false};
    if (report.limit > 0 && report.needed + report.device_needed > report.limit) {
      shortage.needed = report.needed + report.device_needed;
      shortage.budget = report.limit;
      shortage.cause = "memory.limit_mib";
      return shortage;
    }
    if (report.mappable < report.needed) {
      shortage.budget = report.mappable;
      shortage.cause = "the system gives this process no more: ulimit -v, or its overcommit rule";
      return shortage;
    }
    const Node& node = nodes[report.host.data()];
    if (node.needed > node.total) {
      shortage.budget = node.total / node.ranks;
      shortage.cause = fmt::format(
          "{} there would need {:.1f} MiB together, and the machine or its control group "
          "holds {:.1f} MiB, swap included",
          core::counted(node.ranks, "rank"), mebibytes(node.needed), mebibytes(node.total));
      shortage.by_machine = true;
      return shortage;
    }
    if (device_is_short(reports, r, shortage)) return shortage;
  }
  return {};
}

std::vector<std::string> memory_warnings(std::span<const MemoryReport> reports) {
  std::vector<std::string> warnings;
  for (const auto& [host, node] : nodes_of(reports)) {
    if (node.needed <= node.free) continue;
    warnings.push_back(fmt::format(
        "{} on host {} will need {:.1f} MiB, and {:.1f} MiB are free now: unless others "
        "give memory back, the kernel will kill processes",
        core::counted(node.ranks, "rank"), host, mebibytes(node.needed), mebibytes(node.free)));
  }
  return warnings;
}

FittedConfig fit_to_memory(const Config& config, int threads, comm::Communicator& communicator,
                           const BackendDevice& device, core::Logger& log) {
  FittedConfig fitted{config, ""};
  const int world_size = communicator.world_size();
  while (true) {
    const std::vector<MemoryReport> reports =
        exchange_reports(fitted.config, threads, communicator, device);
    const MemoryShortage shortage = find_shortage(reports);
    if (!shortage.found()) {
      for (const std::string& warning : memory_warnings(reports)) {
        if (communicator.rank() == 0) log.warning("memory", "{}", warning);
      }
      return fitted;
    }
    const bool halves = config.memory.on_exhausted == OnExhausted::kHalveMicro;
    const auto smaller = smaller_micro_batch(fitted.config, world_size);
    if (!halves || !smaller) {
      throw AgreedError(core::ErrorKind::kOutOfMemory,
                        describe_shortage(shortage, fitted.config, world_size, threads));
    }
    fitted.config.batch.micro = *smaller;
    const std::int64_t rounds = accumulation_rounds(fitted.config, world_size);
    fitted.health = health_fields(config, shortage, *smaller, rounds);
    if (communicator.rank() == 0) {
      log.warning("memory", "{}: trying batch.micro {} with {} rounds (memory.on_exhausted)",
                  describe(shortage), *smaller, rounds);
    }
  }
}

}  // namespace lockstep::runtime
