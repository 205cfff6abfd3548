#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

namespace lockstep::runtime {
enum class WeightsChoice;
}

namespace lockstep::launcher {

enum class OutputFormat { kTable, kJson };

// What a subcommand works with. Data goes to `out`, talk to `err`.
//
// Each file in launcher/commands/ has one function
//   void add_<name>_command(CLI::App& app, CommandContext& context);
// that declares the subcommand with its options and names what it does with set_action. main.cc
// lists them.
struct CommandContext {
  std::vector<std::string> arguments;  // argv, the program's name first
  std::ostream& out;
  std::ostream& err;
  std::function<int()> action;  // of the subcommand that was asked for; returns the exit code
};

// Makes `action` what runs when `command` is asked for, once the whole command line is known to be
// right. Errors are thrown (core::Error); main turns them into a message and an exit code.
void set_action(CLI::App& command, CommandContext& context, std::function<int()> action);

// -o table|json
void add_output_option(CLI::App& command, OutputFormat& format);

// --weights model|ema: which weights of a checkpoint.
void add_weights_option(CLI::App& command, runtime::WeightsChoice& choice);

// For options that mean nothing without a value, such as a time: an empty one, as a script gives it
// whose variable is not set, is an error and not the default.
CLI::Validator not_empty();

// --set path.to.key=value, any number of times; for load_config.
void add_set_option(CLI::App& command, std::vector<std::string>& overrides);

}  // namespace lockstep::launcher
