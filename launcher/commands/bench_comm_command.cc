#include "launcher/commands/bench_comm_command.h"

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "comm/local/local_world.h"
#include "comm/mpi/mpi_environment.h"
#include "comm/nccl/nccl_library.h"
#include "core/error.h"
#include "launcher/bench/bench_device.h"
#include "launcher/bench/comm_bench.h"
#include "launcher/bench/device_comm_bench.h"
#include "launcher/device_choice.h"
#include "launcher/launcher_line.h"
#include "launcher/mpi_launch.h"

namespace lockstep::launcher {
namespace {

constexpr std::chrono::seconds kTimeout{60};

struct BenchCommOptions {
  int ranks = 0;  // 0: not given
  std::string backend = "mpi";
  std::string device = "cpu";
  std::string comm = "auto";
  std::string reproducible = "run";
  std::vector<std::size_t> mebibytes = {1, 4, 16, 64, 256};
  int repetitions = 7;
  OutputFormat format = OutputFormat::kJson;
};

// Prints what rank 0 reports.
class CommPrinter {
 public:
  CommPrinter(const comm::Communicator& communicator, core::DeviceRef device,
              const BenchCommOptions& options, std::ostream& out)
      : first_rank_(communicator.rank() == 0), format_(options.format), out_(out) {
    const bool nccl = communicator.backend() == "nccl";
    common_ = {
        {"bench", "comm"},
        {"backend", communicator.backend()},
        {"nccl", nccl ? nlohmann::ordered_json(comm::nccl_version_text(comm::load_nccl().version))
                      : nlohmann::ordered_json()},
        {"device", core::to_string(device.device)},
        {"device_name", name_of_device(device)},
        {"reproducible", options.reproducible},
        {"ranks", communicator.world_size()}};
    if (first_rank_ && format_ == OutputFormat::kTable) print_head();
  }

  void operator()(const CommMeasurement& m) {
    if (!first_rank_) return;
    if (format_ == OutputFormat::kTable) {
      print_row(m);
    } else {
      print_line(m);
    }
    out_.flush();
  }

 private:
  void print_head() {
    const std::string version =
        common_["nccl"].is_null() ? "" : " " + common_["nccl"].get<std::string>();
    out_ << fmt::format("{} rank(s) ({}{}) on {} ({})\n", common_["ranks"].get<int>(),
                        common_["backend"].get<std::string>(), version,
                        common_["device"].get<std::string>(),
                        common_["device_name"].get<std::string>());
    out_ << fmt::format("{:<16}{:<12}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>10}\n",
                        "collective", "dtype", "MiB", "ms", "fastest", "slowest", "alg. GB/s",
                        "bus GB/s", "copy GB/s", "of copy");
  }

  void print_row(const CommMeasurement& m) {
    out_ << fmt::format(
        "{:<16}{:<12}{:>10.2f}{:>12.3f}{:>12.3f}{:>12.3f}{:>12.2f}{:>12.2f}{:>12.2f}{:>9.0f}%\n",
        m.collective, m.dtype, static_cast<double>(m.bytes) / 1048576.0, m.time.seconds * 1e3,
        m.time.fastest_seconds * 1e3, m.time.slowest_seconds * 1e3, m.algorithm_gb_per_s,
        m.bus_gb_per_s, m.copy_gb_per_s, m.fraction_of_copy * 100);
  }

  void print_line(const CommMeasurement& m) {
    nlohmann::ordered_json json = common_;
    json["collective"] = m.collective;
    json["dtype"] = m.dtype;
    json["bytes"] = m.bytes;
    json["seconds"] = m.time.seconds;
    json["fastest_seconds"] = m.time.fastest_seconds;
    json["slowest_seconds"] = m.time.slowest_seconds;
    json["repetitions"] = m.time.repetitions;
    json["algorithm_gb_per_s"] = m.algorithm_gb_per_s;
    json["bus_gb_per_s"] = m.bus_gb_per_s;
    json["copy_gb_per_s"] = m.copy_gb_per_s;
    json["fraction_of_copy"] = m.fraction_of_copy;
    out_ << json.dump() << "\n";
  }

  bool first_rank_;
  OutputFormat format_;
  std::ostream& out_;
  nlohmann::ordered_json common_;
};

std::vector<std::size_t> sizes_in_bytes(const BenchCommOptions& options) {
  std::vector<std::size_t> sizes;
  for (const std::size_t mebibytes : options.mebibytes)
    sizes.push_back(mebibytes << 20);
  return sizes;
}

void measure_on_cpu(comm::Communicator& communicator, const BenchCommOptions& options,
                    std::ostream& out) {
  CommPrinter printer(communicator, {}, options, out);
  measure_comm(communicator, sizes_in_bytes(options), options.repetitions, std::ref(printer));
  communicator.barrier("end of the benchmark");
}

void measure_on_device(comm::Communicator& communicator, const runtime::BackendDevice& device,
                       const runtime::Config& config, const BenchCommOptions& options,
                       std::ostream& out) {
  core::MemoryTracker memory;
  ops::OpContext context = runtime::make_op_context(device, config, 1, memory);
  communicator.work_on(context.stream());
  DeviceCommOptions measured;
  measured.sizes = sizes_in_bytes(options);
  measured.limits.repetitions = options.repetitions;
  CommPrinter printer(communicator, device.device, options, out);
  measure_device_comm(communicator, context, memory, measured, std::ref(printer));
  communicator.barrier("end of the benchmark");
}

runtime::CommChoice comm_choice(const std::string& name) {
  if (name == "self") return runtime::CommChoice::kSelf;
  if (name == "mpi") return runtime::CommChoice::kMpi;
  if (name == "nccl") return runtime::CommChoice::kNccl;
  return runtime::CommChoice::kAuto;
}

runtime::Config config_of(const BenchCommOptions& options) {
  runtime::Config config;
  config.backend.device =
      options.device == "cuda" ? runtime::DeviceChoice::kCuda : runtime::DeviceChoice::kCpu;
  config.backend.comm = comm_choice(options.comm);
  config.run.reproducible =
      options.reproducible == "none" ? runtime::Reproducible::kNone : runtime::Reproducible::kRun;
  config.parallel.timeout_seconds = std::chrono::duration<double>(kTimeout).count();
  return config;
}

int measure_as_rank(const BenchCommOptions& options, const comm::MpiEnvironment* environment,
                    std::ostream& out) {
  runtime::Config config = config_of(options);
  core::Logger log(environment != nullptr ? environment->rank() : 0,
                   environment != nullptr ? environment->world_size() : 1,
                   core::LogLevel::kWarning);
  const RankBackend backend = connect_ranks(config, environment, log);
  try {
    if (backend.device.on_cpu()) {
      measure_on_cpu(*backend.communicator, options, out);
    } else {
      measure_on_device(*backend.communicator, backend.device, config, options, out);
    }
  } catch (const core::Error& error) {
    backend.communicator->abort(error.kind(), error.what());
    throw;
  }
  return 0;
}

std::vector<std::string> rank_arguments(const BenchCommOptions& options) {
  std::vector<std::string> arguments = {"bench",
                                        "comm",
                                        "--device",
                                        options.device,
                                        "--comm",
                                        options.comm,
                                        "--reproducible",
                                        options.reproducible,
                                        "--repetitions",
                                        std::to_string(options.repetitions),
                                        "-o",
                                        options.format == OutputFormat::kJson ? "json" : "table",
                                        "--mebibytes"};
  for (const std::size_t size : options.mebibytes)
    arguments.push_back(std::to_string(size));
  return arguments;
}

int bench_comm(const BenchCommOptions& options, std::ostream& out) {
  const int usual = options.comm == "self" ? 1 : 2;
  const int ranks = options.ranks == 0 ? usual : options.ranks;
  if (options.backend == "local") {
    const comm::LocalWorld world(ranks, kTimeout);
    world.run(
        [&](comm::Communicator& communicator) { measure_on_cpu(communicator, options, out); });
    return 0;
  }
  if (comm::started_by_mpi_launcher()) {
    if (options.ranks != 0) {
      throw core::Error(core::ErrorKind::kConfig,
                        "--ranks starts mpirun itself; leave it out under mpirun or srun");
    }
    const LauncherLine launcher;  // says that this rank is there
    const comm::MpiEnvironment environment;
    return measure_as_rank(options, &environment, out);
  }
  if (ranks == 1 && options.comm != "mpi") return measure_as_rank(options, nullptr, out);
  return launch_ranks({.ranks = ranks, .arguments = rank_arguments(options), .listen = false});
}

void add_where_options(CLI::App& command, BenchCommOptions& options) {
  command
      .add_option("--ranks", options.ranks,
                  "ranks to start on this machine (default 2, with --comm self 1)")
      ->check(CLI::Range(1, 1 << 12).description(""))
      ->option_text("N");
  command.add_option("--device", options.device, "whose memory is moved")
      ->check(CLI::IsMember({"cpu", "cuda"}).description(""))
      ->option_text("cpu|cuda")
      ->capture_default_str();
  command.add_option("--comm", options.comm, "what moves it, as backend.comm of a configuration")
      ->check(CLI::IsMember({"auto", "mpi", "nccl", "self"}).description(""))
      ->option_text("auto|mpi|nccl|self")
      ->capture_default_str();
  command
      .add_option("--reproducible", options.reproducible,
                  "run: what run.reproducible: run lets NCCL use; none: whatever it likes; with "
                  "mpi they are the same")
      ->check(CLI::IsMember({"none", "run"}).description(""))
      ->option_text("none|run")
      ->capture_default_str();
  CLI::Option* backend =
      command.add_option("--backend", options.backend, "ranks as processes, or threads on CPUs")
          ->check(CLI::IsMember({"mpi", "local"}).description(""))
          ->option_text("mpi|local")
          ->capture_default_str();
  for (const char* other : {"--device", "--comm", "--reproducible"})
    backend->excludes(command.get_option(other));
}

}  // namespace

void add_bench_comm_command(CLI::App& bench, CommandContext& context) {
  CLI::App* command = bench.add_subcommand(
      "comm", "bandwidth of each collective, beside that of plain copies by as many ranks");
  auto options = std::make_shared<BenchCommOptions>();
  add_where_options(*command, *options);
  command->add_option("--mebibytes", options->mebibytes, "sizes of the whole vector, in MiB")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N...");
  command->add_option("--repetitions", options->repetitions, "timed repetitions; the median counts")
      ->check(CLI::Range(1, 1000).description(""))
      ->option_text("N")
      ->capture_default_str();
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return bench_comm(*options, context.out); });
}

}  // namespace lockstep::launcher
