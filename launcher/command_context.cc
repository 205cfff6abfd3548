#include "launcher/command_context.h"

#include <utility>

#include "runtime/checkpoint/checkpoint_weights.h"

namespace lockstep::launcher {

void set_action(CLI::App& command, CommandContext& context, std::function<int()> action) {
  command.callback([&context, action = std::move(action)] { context.action = action; });
}

void add_output_option(CLI::App& command, OutputFormat& format) {
  const auto set = [&format](const std::string& word) {
    format = word == "json" ? OutputFormat::kJson : OutputFormat::kTable;
  };
  command.add_option_function<std::string>("-o", set, "form of the output: table or json")
      ->check(CLI::IsMember({"table", "json"}).description(""))
      ->option_text("table|json");
}

void add_weights_option(CLI::App& command, runtime::WeightsChoice& choice) {
  using runtime::WeightsChoice;
  const auto set = [&choice](const std::string& word) {
    choice = word == "ema" ? WeightsChoice::kEma : WeightsChoice::kModel;
  };
  command
      .add_option_function<std::string>(
          "--weights", set, "model: as trained (default); ema: their moving average (ema.decay)")
      ->check(CLI::IsMember({"model", "ema"}).description(""))
      ->option_text("model|ema");
}

CLI::Validator not_empty() {
  return CLI::Validator(
      [](const std::string& text) {
        return std::string(text.empty() ? "expected a value, found an empty text" : "");
      },
      "");
}

void add_set_option(CLI::App& command, std::vector<std::string>& overrides) {
  command
      .add_option("--set", overrides,
                  "override a key of the configuration (repeatable); null takes it out")
      ->allow_extra_args(false)
      ->option_text("KEY=VALUE");
}

}  // namespace lockstep::launcher
