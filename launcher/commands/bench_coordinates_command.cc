#include "launcher/commands/bench_coordinates_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/error.h"
#include "core/log.h"
#include "launcher/bench/coordinates_bench.h"
#include "runtime/config/load_config.h"

namespace lockstep::launcher {
namespace {

struct CoordinatesOptions {
  std::string config_file;
  std::vector<std::string> overrides;
  std::vector<std::int64_t> widths;
  std::int64_t steps = 4;
  OutputFormat format = OutputFormat::kTable;
};

// A feed-forward width that is given stays as it is, and what does not grow shows nothing.
void refuse_fixed_sizes(const std::vector<runtime::Config>& configs) {
  const auto fixed = [&](auto size) {
    return std::any_of(configs.begin(), configs.end(), [&](const runtime::Config& config) {
      return config.model.width != configs.front().model.width &&
             size(config.model) == size(configs.front().model);
    });
  };
  if (!fixed([](const models::ModelConfig& model) { return model.ffn_width; })) return;
  throw core::Error(core::ErrorKind::kConfig,
                    "bench coordinates: model.ffn_width is given and does not follow the width; "
                    "take it out (--set model.ffn_width=null)");
}

void print_table(const std::vector<Coordinates>& widths, std::ostream& out) {
  for (const Coordinates& each : widths) {
    out << fmt::format("width {}\n{:<14}", each.width, "layer");
    for (std::size_t step = 0; step < each.by_step.size(); ++step)
      out << fmt::format("{:>12}", step == 0 ? "initial" : fmt::format("step {}", step));
    for (std::size_t layer = 0; layer < each.layers.size(); ++layer) {
      out << fmt::format("\n{:<14}", each.layers[layer]);
      for (const std::vector<double>& step : each.by_step)
        out << fmt::format("{:>12.5g}", step[layer]);
    }
    out << "\n\n";
  }
  if (widths.size() < 2) return;
  const std::vector<double> slopes = growth(widths);
  out << fmt::format("{:<14}{:>12}\n", "layer", "growth");
  for (std::size_t layer = 0; layer < slopes.size(); ++layer)
    out << fmt::format("{:<14}{:>12.3f}\n", widths.front().layers[layer], slopes[layer]);
  out << "growth: exponent of the width that the last step's root mean square follows; 0: flat\n";
}

void print_json(const std::vector<Coordinates>& widths, std::ostream& out) {
  nlohmann::ordered_json json = {{"bench", "coordinates"}, {"layers", widths.front().layers}};
  for (const Coordinates& each : widths)
    json["widths"].push_back({{"width", each.width}, {"rms_by_step", each.by_step}});
  if (widths.size() > 1) json["growth"] = growth(widths);
  out << json.dump() << "\n";
}

int bench_coordinates(const CoordinatesOptions& options, std::ostream& out) {
  std::vector<runtime::Config> configs;
  for (const std::int64_t width : options.widths) {
    std::vector<std::string> overrides = options.overrides;
    overrides.push_back(fmt::format("model.width={}", width));
    configs.push_back(runtime::load_config(options.config_file, overrides));
  }
  refuse_fixed_sizes(configs);
  core::Logger log(0, 1, core::LogLevel::kError);
  std::vector<Coordinates> widths;
  for (const runtime::Config& config : configs)
    widths.push_back(measure_coordinates(config, options.steps, log));
  options.format == OutputFormat::kJson ? print_json(widths, out) : print_table(widths, out);
  return 0;
}

}  // namespace

void add_bench_coordinates_command(CLI::App& bench, CommandContext& context) {
  CLI::App* command = bench.add_subcommand(
      "coordinates", "growth of activations with the width over the first steps, on random tokens");
  auto options = std::make_shared<CoordinatesOptions>();
  command->add_option("config", options->config_file, "YAML or JSON file")
      ->required()
      ->option_text("CONFIG");
  add_set_option(*command, options->overrides);
  command->add_option("--widths", options->widths, "model.width of each model, as 64,128,256,512")
      ->delimiter(',')
      ->required()
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("W,W,...");
  command->add_option("--steps", options->steps, "training steps")
      ->check(CLI::Range(1, 1000).description(""))
      ->option_text("N")
      ->capture_default_str();
  add_output_option(*command, options->format);
  set_action(*command, context,
             [options, &context] { return bench_coordinates(*options, context.out); });
}

}  // namespace lockstep::launcher
