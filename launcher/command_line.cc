#include "launcher/command_line.h"

#include <algorithm>
#include <array>
#include <exception>
#include <new>
#include <optional>
#include <ostream>
#include <string_view>

#include "core/build_config.h"
#include "core/error.h"
#include "core/signals.h"
#include "runtime/config/nearest.h"

namespace lockstep::launcher {
namespace {

constexpr int kExitUsage = static_cast<int>(core::ErrorKind::kConfig);

// Messages of several lines begin on a line of their own, so that each begins with its place.
int report(std::ostream& err, core::ErrorKind kind, const std::string& message) {
  const bool several = message.find('\n') != std::string::npos;
  err << "lockstep: " << core::describe(kind) << (several ? ":\n" : ": ") << message << std::endl;
  return static_cast<int>(kind);
}

std::vector<std::string> subcommand_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    const bool shown = !command->get_group().empty();
    if (shown && !command->get_name().empty()) names.push_back(command->get_name());  // "": options
  }
  return names;
}

// "lockstep config check"
std::string full_name(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  return parent == nullptr ? app.get_name() : full_name(*parent) + " " + app.get_name();
}

const CLI::App& deepest_parsed(const CLI::App& app) {
  const std::vector<CLI::App*> parsed = app.get_subcommands();
  return parsed.empty() ? app : deepest_parsed(*parsed.back());
}

// "; did you mean '--set'?" for the first argument that looks like an option and is none.
std::string suggest_option(const CLI::App& command, const std::vector<std::string>& arguments) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames())
      names.push_back("--" + name);
  }
  for (const std::string& argument : arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    if (!name.starts_with("--") || std::find(names.begin(), names.end(), name) != names.end()) {
      continue;
    }
    const std::string nearest = runtime::nearest_word(name, names);
    if (!nearest.empty()) return "; did you mean '" + nearest + "'?";
  }
  return "";
}

// The commands that deal with signals themselves, or leave that to the program that they become:
// they begin with all of them held (core/signals.h). `step` is `bench step`.
bool takes_signals(const CLI::App& command) {
  constexpr std::array<std::string_view, 5> kNames = {"train", "step", "coordinator", "supervise",
                                                      "rank-start"};
  return std::find(kNames.begin(), kNames.end(), command.get_name()) != kNames.end();
}

// "--notes=" gives an empty text. CLI11 takes it for an option without a value, and the argument
// behind it for the value: it gets the empty text as an argument of its own.
std::vector<std::string> with_empty_values(const std::vector<std::string>& arguments) {
  std::vector<std::string> separated;
  bool options = true;
  for (const std::string& argument : arguments) {
    options = options && argument != "--";
    const bool empty = options && argument.size() > 3 && argument.starts_with("--") &&
                       argument.find('=') == argument.size() - 1;
    separated.push_back(empty ? argument.substr(0, argument.size() - 1) : argument);
    if (empty) separated.emplace_back();
  }
  return separated;
}

}  // namespace

std::string explain_unknown_command(const CLI::App& app,
                                    const std::vector<std::string>& arguments) {
  const CLI::App* command = &app;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::vector<std::string> names = subcommand_names(*command);
    if (names.empty() || arguments[i].starts_with("-")) return "";
    if (std::find(names.begin(), names.end(), arguments[i]) != names.end()) {
      command = command->get_subcommand(arguments[i]);
      continue;
    }
    const std::string nearest = runtime::nearest_word(arguments[i], names);
    return "unknown command '" + arguments[i] + "'" +
           (nearest.empty() ? "." : "; did you mean '" + nearest + "'?") + " " +
           full_name(*command) + " knows: " + runtime::join_words(names);
  }
  return "";
}

CommandLine::CommandLine(int argc, const char* const* argv, std::ostream& out, std::ostream& err)
    : app_("Distributed data-parallel training of Transformers, every rank in lockstep.",
           "lockstep"),
      context_{{argv, argv + argc}, out, err, {}} {
  app_.require_subcommand(1);
  app_.set_version_flag("--version", std::string(core::kVersion));
}

int CommandLine::explain_parse_error(const CLI::ParseError& error) {
  if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
    return app_.exit(error, context_.out, context_.err);  // --help and --version
  }
  const CLI::App& command = deepest_parsed(app_);
  std::string message = explain_unknown_command(app_, context_.arguments);
  if (message.empty()) message = error.what() + suggest_option(command, context_.arguments);
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    const std::vector<std::string> names = subcommand_names(command);
    if (!names.empty()) message += ", one of: " + runtime::join_words(names);
  }
  context_.err << "lockstep: " << message << "\nSee '" << full_name(command) << " --help'."
               << std::endl;
  return kExitUsage;
}

int CommandLine::parse_and_act() {
  try {
    // CLI11 takes the arguments without the program's name, last one first.
    std::vector<std::string> arguments = with_empty_values(context_.arguments);
    if (arguments.size() > 1 && arguments[1] == "compare")
      std::replace(arguments.begin(), arguments.end(), std::string("--"),
                   std::string(kGroupSeparator));
    std::reverse(arguments.begin(), arguments.end());
    if (!arguments.empty()) arguments.pop_back();
    app_.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return explain_parse_error(error);
  }
  std::optional<core::SignalThread> signals;
  if (!takes_signals(deepest_parsed(app_))) signals.emplace();
  return context_.action();
}

int CommandLine::run() {
  int exit_code = 0;
  try {
    exit_code = parse_and_act();
  } catch (const core::Error& error) {
    return report(context_.err, error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    return report(context_.err, core::ErrorKind::kOutOfMemory,
                  "the operating system gave no more memory");
  } catch (const std::exception& error) {
    return report(context_.err, core::ErrorKind::kInternal, error.what());
  }
  context_.out.flush();
  if (!context_.out) {
    return report(context_.err, core::ErrorKind::kInternal, "cannot write to the standard output");
  }
  return exit_code;
}

}  // namespace lockstep::launcher
