#include "launcher/commands/compare_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/error.h"
#include "launcher/command_line.h"
#include "runtime/report/comparison.h"

namespace lockstep::launcher {
namespace {

using nlohmann::ordered_json;
using runtime::ComparedRun;
using runtime::Comparison;

struct CompareOptions {
  std::vector<std::string> runs;  // of both groups, kGroupSeparator between them
  std::optional<double> target;
  OutputFormat format = OutputFormat::kTable;
};

std::vector<runtime::ReportRun> open(const std::vector<std::string>& directories) {
  std::vector<runtime::ReportRun> runs = runtime::open_runs(directories);
  for (runtime::ReportRun& run : runs)
    run.refresh();
  runtime::require_steps(runs);
  return runs;
}

ordered_json json_of(const std::vector<ComparedRun>& runs) {
  ordered_json list = ordered_json::array();
  for (const ComparedRun& run : runs) {
    const auto or_null = [](const auto& value) { return value ? ordered_json(*value) : nullptr; };
    list.push_back({{"run", run.label},
                    {"seed", run.seed},
                    {"final_validation_loss", run.final_loss},
                    {"final_step", run.final_step},
                    {"steps_to_target", or_null(run.steps_to_target)},
                    {"tokens_to_target", or_null(run.tokens_to_target)},
                    {"tokens_per_second", run.tokens_per_second},
                    {"rank_seconds_per_million_tokens", run.rank_seconds_per_million}});
  }
  return list;
}

ordered_json json_of(const Comparison& c) {
  ordered_json curve = ordered_json::array();
  for (const runtime::ComparedPoint& point : c.curve)
    curve.push_back({{"tokens", point.tokens},
                     {"a", point.a},
                     {"b", point.b},
                     {"difference", point.b - point.a}});
  ordered_json config = ordered_json::array();
  const auto middle = static_cast<std::ptrdiff_t>(c.a.size());
  for (const runtime::DifferingKey& key : c.config) {
    const auto begin = key.values.begin();
    config.push_back({{"key", key.key},
                      {"a", std::vector<std::string>(begin, begin + middle)},
                      {"b", std::vector<std::string>(begin + middle, key.values.end())}});
  }
  return {{"a", json_of(c.a)},
          {"b", json_of(c.b)},
          {"tokens", c.tokens},
          {"difference", c.difference},
          {"confidence_interval", c.p_value ? ordered_json({c.low, c.high}) : nullptr},
          {"p_value", c.p_value ? ordered_json(*c.p_value) : nullptr},
          {"verdict", c.verdict},
          {"reason", c.reason},
          {"target_loss", c.target_loss},
          {"curve", curve},
          {"config_differences", config}};
}

void print_group(const char* name, const std::vector<ComparedRun>& runs, std::ostream& out) {
  for (const ComparedRun& run : runs) {
    const std::string target =
        run.steps_to_target
            ? fmt::format("step {} ({:.4g} tokens)", *run.steps_to_target, *run.tokens_to_target)
            : "never";
    out << fmt::format("{:3} {:24} {:>8} {:>10.4f} {:>8} {:>26} {:>10.4g} {:>12.4g}\n", name,
                       run.label, run.seed, run.final_loss, run.final_step, target,
                       run.tokens_per_second, run.rank_seconds_per_million);
  }
}

void print(const Comparison& c, std::ostream& out) {
  out << fmt::format("{:3} {:24} {:>8} {:>10} {:>8} {:>26} {:>10} {:>12}\n", "", "run", "seed",
                     "final loss", "at step", fmt::format("to loss {:.4f}", c.target_loss),
                     "tokens/s", "rank-s/Mtok");
  print_group("A", c.a, out);
  print_group("B", c.b, out);
  out << fmt::format("\n{:>12} {:>10} {:>10} {:>10}\n", "tokens", "A", "B", "B - A");
  for (const runtime::ComparedPoint& point : c.curve)
    out << fmt::format("{:>12.5g} {:>10.4f} {:>10.4f} {:>+10.4f}\n", point.tokens, point.a, point.b,
                       point.b - point.a);
  if (!c.config.empty()) out << "\n";
  const auto middle = static_cast<std::ptrdiff_t>(c.a.size());
  for (const runtime::DifferingKey& key : c.config) {
    out << fmt::format("{}: A {}; B {}\n", key.key,
                       fmt::join(key.values.begin(), key.values.begin() + middle, ", "),
                       fmt::join(key.values.begin() + middle, key.values.end(), ", "));
  }
  out << fmt::format("\nfinal validation loss at {:.5g} tokens: B - A = {:+.5f}", c.tokens,
                     c.difference);
  if (c.p_value) out << fmt::format(", 95 % interval [{:+.5f}, {:+.5f}]", c.low, c.high);
  out << fmt::format("\nB is {}: {}\n",
                     c.verdict == "noise" ? "not told from A (noise)" : c.verdict, c.reason);
}

int compare(const CompareOptions& options, std::ostream& out) {
  const auto separator = std::find(options.runs.begin(), options.runs.end(), kGroupSeparator);
  if (separator == options.runs.begin() || options.runs.end() - separator < 2) {
    throw core::Error(core::ErrorKind::kConfig,
                      "compare: expected runs on both sides of a --, as in "
                      "lockstep compare runs/a1 runs/a2 -- runs/b1 runs/b2");
  }
  const Comparison c =
      runtime::compare_runs(open({options.runs.begin(), separator}),
                            open({separator + 1, options.runs.end()}), options.target);
  if (options.format == OutputFormat::kJson) {
    out << json_of(c).dump() << "\n";
  } else {
    print(c, out);
  }
  return 0;
}

}  // namespace

void add_compare_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "compare", "compare the validation loss of two runs, or of two groups of seeds");
  auto options = std::make_shared<CompareOptions>();
  command
      ->add_option("runs", options->runs,
                   "output directories of runs: those of A, then --, then those of B")
      ->required()
      ->option_text("A... -- B...");
  command
      ->add_option("--target", options->target,
                   "validation loss whose first reaching is reported (default: the greater of the "
                   "two mean final losses)")
      ->option_text("LOSS");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return compare(*options, context.out); });
}

}  // namespace lockstep::launcher
