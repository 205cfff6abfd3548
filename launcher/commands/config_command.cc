#include "launcher/commands/config_command.h"

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/counted.h"
#include "core/hash.h"
#include "core/input_file.h"
#include "runtime/config/describe.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"
#include "runtime/interchange/foreign_settings.h"

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
    out << fmt::format(
        ", {} with {}", core::counted(options.ranks, "rank"),
        core::counted(runtime::accumulation_rounds(config, options.ranks), "accumulation round"));
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

struct FromOptions {
  std::string file;
  std::string base;
};

// The keys on stdout, what has none or means something else on stderr.
int print_settings(const runtime::ForeignSettings& settings, const std::string& base,
                   CommandContext& context) {
  context.out << runtime::settings_as_yaml(settings, base);
  for (const std::string& line : settings.left)
    context.err << "lockstep: not taken over: " << line << "\n";
  return 0;
}

void add_from(CLI::App& config, CommandContext& context, const char* name, const char* meaning,
              std::function<runtime::ForeignSettings(const FromOptions&)> read) {
  CLI::App* command = config.add_subcommand(name, meaning);
  auto options = std::make_shared<FromOptions>();
  command->add_option("file", options->file, "JSON file")->required()->option_text("FILE");
  command
      ->add_option("--base", options->base,
                   "a configuration to put the keys over; the result is a whole configuration")
      ->option_text("CONFIG");
  set_action(*command, context, [options, read = std::move(read), &context] {
    return print_settings(read(*options), options->base, context);
  });
}

void add_from_deepspeed(CLI::App& config, CommandContext& context) {
  add_from(config, context, "from-deepspeed", "write a configuration of DeepSpeed in our keys",
           [](const FromOptions& options) {
             return runtime::read_deepspeed(core::read_text(options.file), options.file,
                                            options.base.empty() ? runtime::SettingsBase::kNone
                                                                 : runtime::SettingsBase::kGiven);
           });
}

void add_from_hf(CLI::App& config, CommandContext& context) {
  add_from(config, context, "from-hf",
           "write the TrainingArguments of Hugging Face's Trainer in our keys",
           [](const FromOptions& options) {
             return runtime::read_training_arguments(core::read_text(options.file), options.file);
           });
}

}  // namespace

void add_config_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("config", "check configurations, list the keys");
  command->require_subcommand(1);
  add_check(*command, context);
  add_defaults(*command, context);
  add_from_deepspeed(*command, context);
  add_from_hf(*command, context);
}

}  // namespace lockstep::launcher
