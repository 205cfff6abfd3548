#include "launcher/commands/bench_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "comm/local/local_world.h"
#include "comm/make_communicator.h"
#include "comm/mpi/mpi_environment.h"
#include "core/error.h"
#include "launcher/comm_bench.h"
#include "launcher/commands/bench_ops_command.h"
#include "launcher/commands/bench_step_command.h"
#include "launcher/mpi_launch.h"

namespace lockstep::launcher {
namespace {

constexpr std::chrono::seconds kTimeout{60};

struct BenchCommOptions {
  int ranks = 0;  // 0: not given
  std::string backend = "mpi";
  std::vector<std::size_t> mebibytes = {1, 4, 16, 64, 256};
  int repetitions = 7;
  OutputFormat format = OutputFormat::kJson;
};

void print(const comm::Communicator& comm, const std::vector<CommMeasurement>& results,
           OutputFormat format, std::ostream& out) {
  if (format == OutputFormat::kTable) {
    out << fmt::format("{:<16}{:<12}{:>10}{:>12}{:>12}{:>12}{:>10}\n", "collective", "dtype", "MiB",
                       "ms", "bus GB/s", "copy GB/s", "of copy");
  }
  for (const CommMeasurement& m : results) {
    if (format == OutputFormat::kTable) {
      out << fmt::format("{:<16}{:<12}{:>10.2f}{:>12.3f}{:>12.2f}{:>12.2f}{:>9.0f}%\n",
                         m.collective, m.dtype, static_cast<double>(m.bytes) / 1048576.0,
                         m.seconds * 1e3, m.bus_gb_per_s, m.copy_gb_per_s,
                         m.fraction_of_copy * 100);
      continue;
    }
    const nlohmann::ordered_json json = {{"bench", "comm"},
                                         {"backend", comm.backend()},
                                         {"ranks", comm.world_size()},
                                         {"collective", m.collective},
                                         {"dtype", m.dtype},
                                         {"bytes", m.bytes},
                                         {"seconds", m.seconds},
                                         {"bus_gb_per_s", m.bus_gb_per_s},
                                         {"copy_gb_per_s", m.copy_gb_per_s},
                                         {"fraction_of_copy", m.fraction_of_copy}};
    out << json.dump() << "\n";
  }
  out.flush();
}

std::vector<std::size_t> sizes_in_bytes(const BenchCommOptions& options) {
  std::vector<std::size_t> sizes;
  for (const std::size_t mebibytes : options.mebibytes)
    sizes.push_back(mebibytes << 20);
  return sizes;
}

void measure_and_print(comm::Communicator& comm, const BenchCommOptions& options,
                       std::ostream& out) {
  const auto results = measure_comm(comm, sizes_in_bytes(options), options.repetitions);
  if (comm.rank() == 0) print(comm, results, options.format, out);
  comm.barrier("end of the benchmark");
}

std::vector<std::string> rank_arguments(const BenchCommOptions& options) {
  std::vector<std::string> arguments = {"bench",
                                        "comm",
                                        "--repetitions",
                                        std::to_string(options.repetitions),
                                        "-o",
                                        options.format == OutputFormat::kJson ? "json" : "table"};
  arguments.emplace_back("--mebibytes");
  for (const std::size_t size : options.mebibytes)
    arguments.push_back(std::to_string(size));
  return arguments;
}

int bench_comm(const BenchCommOptions& options, std::ostream& out) {
  const int ranks = options.ranks == 0 ? 2 : options.ranks;
  if (options.backend == "local") {
    const comm::LocalWorld world(ranks, kTimeout);
    world.run([&](comm::Communicator& comm) { measure_and_print(comm, options, out); });
    return 0;
  }
  if (!comm::started_by_mpi_launcher()) return launch_ranks(ranks, rank_arguments(options));
  if (options.ranks != 0) {
    throw core::Error(core::ErrorKind::kConfig,
                      "--ranks starts mpirun itself; leave it out under mpirun or srun");
  }
  const comm::MpiEnvironment environment;
  const auto comm = comm::make_communicator("auto", &environment, kTimeout);
  measure_and_print(*comm, options, out);
  return 0;
}

void add_bench_comm_command(CLI::App& bench, CommandContext& context) {
  CLI::App* command = bench.add_subcommand(
      "comm", "bandwidth of each collective, beside that of plain copies by as many ranks");
  auto options = std::make_shared<BenchCommOptions>();
  command->add_option("--ranks", options->ranks, "ranks to start on this machine (default 2)")
      ->check(CLI::Range(1, 1 << 12).description(""))
      ->option_text("N");
  command->add_option("--backend", options->backend, "mpi (processes) or local (threads)")
      ->check(CLI::IsMember({"mpi", "local"}).description(""))
      ->option_text("mpi|local")
      ->capture_default_str();
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

}  // namespace

void add_bench_command(CLI::App& app, CommandContext& context) {
  CLI::App* bench = app.add_subcommand("bench", "measure this machine");
  bench->require_subcommand(1);
  add_bench_comm_command(*bench, context);
  add_bench_ops_command(*bench, context);
  add_bench_step_command(*bench, context);
}

}  // namespace lockstep::launcher
