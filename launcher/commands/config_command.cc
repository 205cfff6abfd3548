#include "launcher/commands/config_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/counted.h"
#include "core/hash.h"
#include "runtime/config/describe.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"

namespace lockstep::launcher {
namespace {

struct CheckOptions {
  std::string file;
  std::vector<std::string> overrides;
  int ranks = 0;  // 0: not given
  bool resolved = false;
  OutputFormat format = OutputFormat::kTable;
};

int check(const CheckOptions& options, std::ostream& out) {
  const runtime::Config config = runtime::load_config(options.file, options.overrides);
  if (options.ranks > 0) runtime::validate_for_world(config, options.ranks);
  const std::string fingerprint = core::to_hex(runtime::fingerprint(config));
  if (options.format == OutputFormat::kJson) {
    nlohmann::ordered_json json = {
        {"file", options.file}, {"ok", true}, {"fingerprint", fingerprint}};
    if (options.ranks > 0) {
      json["ranks"] = options.ranks;
      json["rounds"] = runtime::accumulation_rounds(config, options.ranks);
    }
    if (options.resolved) json["resolved"] = runtime::to_yaml(config);
    out << json.dump() << "\n";
    return 0;
  }
  if (options.resolved) {
    out << runtime::to_yaml(config);
    return 0;
  }
  out << fmt::format("{}: ok, fingerprint {}", options.file, fingerprint);
  if (options.ranks > 0) {
    out << fmt::format(", {} with {}", core::counted(options.ranks, "rank"),
                       core::counted(runtime::accumulation_rounds(config, options.ranks),
                                     "accumulation round"));
  }
  out << "\n";
  return 0;
}

void add_check(CLI::App& config, CommandContext& context) {
  CLI::App* command =
      config.add_subcommand("check", "check a configuration and say all its errors");
  auto options = std::make_shared<CheckOptions>();
  command->add_option("file", options->file, "YAML or JSON file")->required()->option_text("FILE");
  add_set_option(*command, options->overrides);
  command->add_option("--ranks", options->ranks, "check that it fits this number of ranks too")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N");
  command->add_flag("--resolved", options->resolved,
                    "show the configuration with every default filled in");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return check(*options, context.out); });
}

void add_defaults(CLI::App& config, CommandContext& context) {
  CLI::App* command =
      config.add_subcommand("defaults", "show every key with its default and meaning");
  auto format = std::make_shared<OutputFormat>(OutputFormat::kTable);
  add_output_option(*command, *format);
  set_action(*command, context, [format, &context] {
    context.out << (*format == OutputFormat::kJson ? runtime::defaults_as_json()
                                                   : runtime::defaults_as_yaml());
    return 0;
  });
}

}  // namespace

void add_config_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("config", "check configurations, list the keys");
  command->require_subcommand(1);
  add_check(*command, context);
  add_defaults(*command, context);
}

}  // namespace lockstep::launcher
