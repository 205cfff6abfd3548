#include "launcher/commands/completion_command.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <ostream>
#include <set>

namespace lockstep::launcher {
namespace {

struct Option {
  std::string name{};  // "--rank", "-f"
  std::string help{};
  bool takes_value = false;
};

// What may stand behind an option; "RUNS" stands for the runs that there are.
constexpr const char* kRuns = "RUNS";
const std::map<std::string, std::string>& known_values() {
  static const std::map<std::string, std::string> values = {
      {"--state",
       "WAITING QUEUED STARTING RUNNING STOPPING BACKOFF PAUSED SUCCEEDED FAILED CANCELLED"},
      {"-o", "table json jsonl yaml name"},
      {"--stream", "stdout stderr"},
      {"--scope", "read submit operate admin"},
      {"--for", "end running paused checkpoint step= checkpoint="},
      {"--resume", "auto never"},
      {"--after", kRuns}};
  return values;
}

// One subcommand, as a shell needs to know it.
struct Node {
  std::string path{};  // "admin token create"; "" for the program itself
  std::vector<Option> subcommands{};
  std::vector<Option> options{};
  bool takes_runs = false;
};

// The scripts quote with '.
std::string safe(std::string text) {
  std::replace(text.begin(), text.end(), '\'', '"');
  return text;
}

void collect(const CLI::App& app, const std::string& path, std::vector<Node>& nodes) {
  Node node{path, {}, {}, false};
  for (const CLI::Option* option : app.get_options()) {
    node.takes_runs |= option->get_name() == "run" || option->get_name() == "runs";
    const bool takes_value = option->get_items_expected_max() > 0;
    for (const std::string& name : option->get_lnames())
      node.options.push_back({"--" + name, safe(option->get_description()), takes_value});
    for (const std::string& name : option->get_snames())
      node.options.push_back({"-" + name, safe(option->get_description()), takes_value});
  }
  const auto shown = [](const CLI::App* command) { return !command->get_group().empty(); };
  const std::vector<const CLI::App*> commands = app.get_subcommands(shown);
  for (const CLI::App* command : commands)
    node.subcommands.push_back({command->get_name(), safe(command->get_description())});
  nodes.push_back(std::move(node));
  for (const CLI::App* command : commands)
    collect(*command, path.empty() ? command->get_name() : path + " " + command->get_name(), nodes);
}

std::string names(const std::vector<Option>& options) {
  std::string text;
  for (const Option& option : options)
    text += (text.empty() ? "" : " ") + option.name;
  return text;
}

constexpr const char* kListRuns = "lockstep runs list -o name --limit 500 --patience 0 2>/dev/null";

// Options behind which something else than a run or a subcommand stands, as bash takes them in case.
std::string value_options(const std::vector<Node>& nodes) {
  std::set<std::string> names;
  for (const Node& node : nodes) {
    for (const Option& option : node.options) {
      if (option.takes_value && !known_values().contains(option.name)) names.insert(option.name);
    }
  }
  return fmt::format("{}", fmt::join(names, " | "));
}

void write_bash(const std::vector<Node>& nodes, std::ostream& out) {
  out << "_lockstep() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} path= words= options= runs= i\n"
         "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "    case \"${path:+$path }${COMP_WORDS[i]}\" in\n";
  for (const Node& node : nodes) {
    if (!node.path.empty()) out << fmt::format("      '{}') path='{}' ;;\n", node.path, node.path);
  }
  out << "    esac\n"
         "  done\n"
         "  case \"$path\" in\n";
  for (const Node& node : nodes) {
    out << fmt::format("    '{}') words='{}' options='{}'{} ;;\n", node.path,
                       names(node.subcommands), names(node.options),
                       node.takes_runs ? " runs=yes" : "");
  }
  out << "  esac\n"
         "  case \"${COMP_WORDS[COMP_CWORD-1]}\" in\n";
  for (const auto& [option, values] : known_values()) {
    out << (values == kRuns ? fmt::format("    {}) words= runs=yes ;;\n", option)
                            : fmt::format("    {}) words='{}' runs= ;;\n", option, values));
  }
  out << fmt::format("    {}) words= runs= ;;\n", value_options(nodes));
  out << fmt::format(
      "  esac\n"
      "  if [[ $current == -* ]]; then\n"
      "    words=$options\n"
      "  elif [[ -n $runs ]]; then\n"
      "    words=\"$words $({} | sed 's:^runs/::')\"\n"
      "  fi\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "}}\n"
      "complete -o default -F _lockstep lockstep\n",
      kListRuns);
}

void write_fish(const std::vector<Node>& nodes, std::ostream& out) {
  out << "function __lockstep_at\n"
         "  set -l path\n"
         "  for word in (commandline -opc)[2..-1]\n"
         "    if contains -- (string join ' ' $path $word)";
  for (const Node& node : nodes) {
    if (!node.path.empty()) out << fmt::format(" '{}'", node.path);
  }
  out << "\n"
         "      set path $path $word\n"
         "    end\n"
         "  end\n"
         "  test \"$path\" = \"$argv[1]\"\n"
         "end\n";
  for (const Node& node : nodes) {
    const std::string at = fmt::format("complete -c lockstep -n \"__lockstep_at '{}'\"", node.path);
    for (const Option& command : node.subcommands)
      out << fmt::format("{} -f -a {} -d '{}'\n", at, command.name, command.help);
    for (const Option& option : node.options) {
      const bool is_long = option.name.starts_with("--");
      const auto values = known_values().find(option.name);
      std::string behind = option.takes_value ? " -r" : "";
      if (option.takes_value && values != known_values().end()) {
        behind = values->second == kRuns
                     ? fmt::format(" -x -a \"({} | string replace runs/ '')\"", kListRuns)
                     : fmt::format(" -x -a '{}'", values->second);
      }
      out << fmt::format("{} -{} {}{} -d '{}'\n", at, is_long ? "l" : "s",
                         option.name.substr(is_long ? 2 : 1), behind, option.help);
    }
    if (node.takes_runs) {
      out << fmt::format("{} -f -a \"({} | string replace runs/ '')\"\n", at, kListRuns);
    }
  }
}

}  // namespace

void add_completion_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("completion",
                         "print a script that completes commands, options and runs, e.g. 'source "
                         "<(lockstep completion bash)'");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}).description(""))
      ->option_text("bash|zsh|fish");
  set_action(*command, context, [&app, &context, shell] {
    std::vector<Node> nodes;
    collect(app, "", nodes);
    if (*shell == "fish") {
      write_fish(nodes, context.out);
      return 0;
    }
    // zsh understands bash's own words once it is told to.
    if (*shell == "zsh") {
      context.out << "autoload -U +X compinit && compinit\n"
                     "autoload -U +X bashcompinit && bashcompinit\n";
    }
    write_bash(nodes, context.out);
    return 0;
  });
}

}  // namespace lockstep::launcher
