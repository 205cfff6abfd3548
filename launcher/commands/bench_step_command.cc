#include "launcher/commands/bench_step_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>

#include "comm/mpi/mpi_environment.h"
#include "core/error.h"
#include "launcher/bench/step_bench.h"
#include "launcher/device_choice.h"
#include "launcher/mpi_launch.h"
#include "launcher/run_description.h"
#include "launcher/stop_request.h"
#include "runtime/config/load_config.h"
#include "runtime/ranks/agree.h"
#include "runtime/version/build_info.h"

namespace lockstep::launcher {
namespace {

struct BenchStepOptions {
  std::string config_file;
  std::vector<std::string> overrides;
  StepBenchOptions bench;
  int ranks = 0;  // 0: not given
  OutputFormat format = OutputFormat::kJson;
};

const char* word_of(runtime::Reproducible reproducible) {
  switch (reproducible) {
    case runtime::Reproducible::kNone:
      return "none";
    case runtime::Reproducible::kRun:
      return "run";
    case runtime::Reproducible::kRanks:
      return "ranks";
  }
  return "?";
}

// Null for what is not known.
nlohmann::ordered_json number_or_null(double value) {
  return value > 0.0 ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

nlohmann::ordered_json mfu_json(const StepMeasurement& m) {
  nlohmann::ordered_json json;
  for (const MfuConvention& convention : m.conventions) {
    const double rate = convention.flop_per_token * m.tokens_per_second();
    nlohmann::ordered_json& entry = json[convention.name];
    entry["flop_per_token"] = convention.flop_per_token;
    entry["tflop_per_s"] = rate / 1e12;
    entry["of_measured_peak"] =
        number_or_null(m.measured_peak > 0.0 ? rate / m.measured_peak : 0.0);
    entry["of_datasheet_peak"] =
        number_or_null(m.datasheet_peak > 0.0 ? rate / m.datasheet_peak : 0.0);
  }
  return json;
}

nlohmann::ordered_json split_json(const comm::CommSeconds& seconds, double steps) {
  return {{"hidden", seconds.hidden / steps * 1e3},
          {"exposed", seconds.exposed / steps * 1e3},
          {"total", seconds.total() / steps * 1e3}};
}

// Of a step. What is not known is null, with the reason.
nlohmann::ordered_json communication_json(const comm::CommTimes& times, double steps) {
  if (!times.why_unknown.empty()) {
    return {{"hidden", nullptr},
            {"exposed", nullptr},
            {"total", nullptr},
            {"why_unknown", times.why_unknown}};
  }
  nlohmann::ordered_json json = split_json(times.all(), steps);
  for (const comm::CommKind kind : {comm::CommKind::kReduce, comm::CommKind::kGather})
    json[comm::name_of(kind)] = split_json(times[kind], steps);
  return json;
}

nlohmann::ordered_json memory_json(const StepMeasurement& m) {
  nlohmann::ordered_json json = {{"planned_bytes", m.planned_bytes},
                                 {"planned_device_bytes", m.planned_device_bytes},
                                 {"peak_bytes", m.peak_bytes},
                                 {"device_used_bytes", m.device_used_bytes}};
  for (const auto& [name, bytes] : m.regions)
    json["regions"][name] = {{"planned_bytes", bytes.planned}, {"peak_bytes", bytes.peak}};
  return json;
}

nlohmann::ordered_json run_json(const StepMeasurement& m, const runtime::Config& config,
                                const BenchStepOptions& options) {
  return {{"bench", "step"},
          {"config", config.run.name},
          {"commit", runtime::build_info().commit},
          {"device", m.device},
          {"device_name", m.device_name},
          {"ranks", m.ranks},
          {"comm", m.comm},
          {"threads", m.threads},
          {"compute", core::name_of(config.precision.compute)},
          {"reproducible", word_of(config.run.reproducible)},
          {"parameters", m.parameters},
          {"micro_batch", m.micro_batch},
          {"context", config.model.context},
          {"rounds", m.rounds},
          {"tokens_per_step", m.tokens_per_step},
          {"data", options.bench.synthetic ? "random tokens" : "data.train"},
          {"warmup", options.bench.warmup},
          {"steps", m.step_seconds.size()}};
}

nlohmann::ordered_json to_json(const StepMeasurement& m, const runtime::Config& config,
                               const BenchStepOptions& options) {
  const auto [fastest, slowest] = std::minmax_element(m.step_seconds.begin(), m.step_seconds.end());
  const auto steps = static_cast<double>(m.step_seconds.size());
  nlohmann::ordered_json json = run_json(m, config, options);
  json["applied_steps"] = m.applied_steps;
  json["first_loss"] = m.first_loss;
  json["last_loss"] = m.last_loss;
  json["tokens_per_second"] = m.tokens_per_second();
  json["mean_tokens_per_second"] = m.tokens_per_step * steps / m.all_seconds;
  json["step_ms"] = m.median_seconds() * 1e3;
  json["fastest_step_ms"] = *fastest * 1e3;
  json["slowest_step_ms"] = *slowest * 1e3;
  for (int i = 0; i < runtime::kPhases; ++i) {
    const auto phase = static_cast<runtime::Phase>(i);
    json["phases_ms"][runtime::name_of(phase)] = m.phases[phase] / steps * 1e3;
  }
  if (m.muon) {
    json["newton_schulz"] = {{"matrices", m.muon->matrices},
                             {"flop_per_step", m.muon->flop},
                             {"model_flop_per_step", m.muon->model_flop},
                             {"imbalance", m.muon->imbalance},
                             {"added_share", m.muon->share()},
                             {"ms", number_or_null(m.iteration_seconds / steps * 1e3)}};
  }
  json["wait_ms"] = m.wait_seconds / steps * 1e3;
  json["communication_ms"] = communication_json(m.communication, steps);
  json["measured_peak_tflop_per_s"] = number_or_null(m.measured_peak / 1e12);
  json["measured_peak_size"] = m.peak_size;
  json["datasheet_peak_tflop_per_s"] = number_or_null(m.datasheet_peak / 1e12);
  json["mfu"] = mfu_json(m);
  json["memory"] = memory_json(m);
  return json;
}

// ", 43.1% of 790.2 measured"; nothing where the peak is not known.
std::string share_text(const nlohmann::ordered_json& share, const nlohmann::ordered_json& peak,
                       const char* of) {
  if (share.is_null()) return "";
  return fmt::format(", {:.2f}% of {:.2f} {}", share.get<double>() * 100.0, peak.get<double>(), of);
}

void print_communication(const nlohmann::ordered_json& j, std::ostream& out) {
  const auto row = [&](const std::string& name, const nlohmann::ordered_json& split) {
    out << fmt::format("{:<26}{:>14.3f}  (hidden {:.3f}, exposed {:.3f})\n", name,
                       split["total"].get<double>(), split["hidden"].get<double>(),
                       split["exposed"].get<double>());
  };
  if (j.contains("why_unknown")) {
    out << fmt::format("{:<26}{:>14}  ({})\n", "communication ms", "-",
                       j["why_unknown"].get<std::string>());
    return;
  }
  row("communication ms", j);
  for (const char* kind : {"reduce", "gather"})
    row(std::string("  ") + kind, j[kind]);
}

void print_table(const nlohmann::ordered_json& j, std::ostream& out) {
  const auto number = [](const nlohmann::ordered_json& value) { return value.get<double>(); };
  const auto text = [](const nlohmann::ordered_json& value) { return value.get<std::string>(); };
  out << fmt::format("{}: {:.2f} M parameters, {}, reproducible {}, {} rank(s) ({}) on {} ({})\n",
                     text(j["config"]), number(j["parameters"]) / 1e6, text(j["compute"]),
                     text(j["reproducible"]), j["ranks"].get<int>(), text(j["comm"]),
                     text(j["device"]), text(j["device_name"]));
  out << fmt::format("{:<26}{:>14.1f}  (micro-batch {} x {}, {} rounds, {})\n", "tokens/s",
                     number(j["tokens_per_second"]), j["micro_batch"].get<int>(),
                     j["context"].get<int>(), j["rounds"].get<int>(), text(j["data"]));
  out << fmt::format("{:<26}{:>14.3f}  ({:.3f} to {:.3f} in {} steps)\n", "step ms (median)",
                     number(j["step_ms"]), number(j["fastest_step_ms"]),
                     number(j["slowest_step_ms"]), j["steps"].get<int>());
  for (const auto& [phase, milliseconds] : j["phases_ms"].items())
    out << fmt::format("  {:<24}{:>14.3f}\n", phase, number(milliseconds));
  out << fmt::format("  {:<24}{:>14.3f}  (within these)\n", "waiting for peers",
                     number(j["wait_ms"]));
  print_communication(j["communication_ms"], out);
  for (const auto& [convention, mfu] : j["mfu"].items()) {
    out << fmt::format(
        "{:<26}{:>14.2f}  TFLOP/s{}{}\n", "MFU " + convention, number(mfu["tflop_per_s"]),
        share_text(mfu["of_measured_peak"], j["measured_peak_tflop_per_s"], "measured"),
        share_text(mfu["of_datasheet_peak"], j["datasheet_peak_tflop_per_s"], "of the datasheet"));
  }
  out << fmt::format("{:<26}{:>14.2f}  (planned {:.2f})\n", "peak memory MiB",
                     number(j["memory"]["peak_bytes"]) / 1048576.0,
                     number(j["memory"]["planned_bytes"]) / 1048576.0);
}

void print(const StepMeasurement& measurement, const runtime::Config& config,
           const BenchStepOptions& options, std::ostream& out) {
  const nlohmann::ordered_json json = to_json(measurement, config, options);
  if (options.format == OutputFormat::kJson) {
    out << json.dump() << "\n";
  } else {
    print_table(json, out);
  }
  out.flush();
}

std::vector<std::string> rank_arguments(const BenchStepOptions& options) {
  std::vector<std::string> arguments = {"bench", "step", options.config_file};
  for (const std::string& override_text : options.overrides) {
    arguments.emplace_back("--set");
    arguments.push_back(override_text);
  }
  arguments.insert(arguments.end(), {"--steps", std::to_string(options.bench.steps), "--warmup",
                                     std::to_string(options.bench.warmup), "-o",
                                     options.format == OutputFormat::kJson ? "json" : "table"});
  if (options.bench.synthetic) arguments.emplace_back("--synthetic");
  return arguments;
}

// As one rank. What all ranks agree on is told once, by rank 0; what fails on one alone ends all.
int measure_as_rank(const BenchStepOptions& options, const runtime::Config& config,
                    comm::Communicator& communicator, const runtime::BackendDevice& device,
                    const StopRequest& stop, core::Logger& log, std::ostream& out) {
  try {
    const StepMeasurement result =
        measure_steps(config, options.bench, communicator, device, stop.flag(), log);
    if (communicator.rank() == 0) print(result, config, options, out);
    return 0;
  } catch (const runtime::AgreedError& error) {
    if (communicator.rank() == 0) throw;
    return error.exit_code();
  } catch (const core::Error& error) {
    communicator.abort(error.kind(), error.what());
    throw;
  }
}

int bench_step(const BenchStepOptions& options, std::ostream& out) {
  const bool launched = comm::started_by_mpi_launcher();
  if (launched && options.ranks != 0) {
    throw core::Error(core::ErrorKind::kConfig,
                      "--ranks starts mpirun itself; leave it out under mpirun or srun");
  }
  runtime::Config config = runtime::load_config(options.config_file, options.overrides);
  if (options.ranks > 1) {
    runtime::validate_for_world(config, options.ranks);
    return launch_ranks({.ranks = options.ranks, .arguments = rank_arguments(options)});
  }
  StopRequest stop;
  std::optional<comm::MpiEnvironment> environment;
  if (launched) environment.emplace();
  runtime::validate_for_world(config, environment ? environment->world_size() : 1);
  core::Logger log(environment ? environment->rank() : 0,
                   environment ? environment->world_size() : 1, core::LogLevel::kWarning);
  const RankBackend backend = connect_ranks(config, environment ? &*environment : nullptr, log);
  const int code =
      measure_as_rank(options, config, *backend.communicator, backend.device, stop, log, out);
  if (code != 0 && environment) environment->mark_failed();
  return code;
}

}  // namespace

void add_bench_step_command(CLI::App& bench, CommandContext& context) {
  CLI::App* command = bench.add_subcommand(
      "step", "training steps of a configuration: tokens/s, MFU, time by phase, memory");
  auto options = std::make_shared<BenchStepOptions>();
  command->add_option("config", options->config_file, "YAML or JSON file")
      ->required()
      ->option_text("CONFIG");
  add_set_option(*command, options->overrides);
  command->add_option("--ranks", options->ranks, "start this many ranks on this machine by mpirun")
      ->check(CLI::Range(1, 1 << 16).description(""))
      ->option_text("N");
  command->add_option("--steps", options->bench.steps, "measured steps; the median counts")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N")
      ->capture_default_str();
  command->add_option("--warmup", options->bench.warmup, "steps before them")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->option_text("N")
      ->capture_default_str();
  command->add_flag("--synthetic", options->bench.synthetic,
                    "train on random tokens; data.train need not exist");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return bench_step(*options, context.out); });
}

}  // namespace lockstep::launcher
