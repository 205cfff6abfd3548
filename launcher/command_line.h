#pragma once

#include <iosfwd>
#include <string>

#include "launcher/command_context.h"

namespace lockstep::launcher {

// CLI11 keeps a "--" for itself, and leaves a subcommand there. That of `compare A... -- B...` reaches
// the command as this argument.
inline constexpr const char* kGroupSeparator = " -- ";

// The `lockstep` command: parses its arguments, runs the subcommand, and turns every error into a
// message on stderr and the exit code of its kind.
class CommandLine {
 public:
  CommandLine(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

  CLI::App& app() { return app_; }
  CommandContext& context() { return context_; }

  int run();

 private:
  int parse_and_act();
  int explain_parse_error(const CLI::ParseError& error);

  CLI::App app_;
  CommandContext context_;
};

// For a command line that did not parse: "unknown command 'trian'; did you mean 'train'? ..." when
// its first word that should name a subcommand does not, else "".
std::string explain_unknown_command(const CLI::App& app, const std::vector<std::string>& arguments);

}  // namespace lockstep::launcher
