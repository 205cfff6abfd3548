#include "launcher/commands/audit_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/error.h"
#include "runtime/step/ledger.h"

namespace lockstep::launcher {
namespace {

struct AuditOptions {
  std::string first;
  std::string second;
  OutputFormat format = OutputFormat::kTable;
};

// A run's directory or its ledger.
std::vector<runtime::LedgerLine> ledger_of(const std::string& path) {
  const std::string file = std::filesystem::is_directory(path) ? path + "/ledger.jsonl" : path;
  std::vector<runtime::LedgerLine> lines = runtime::read_ledger(file);
  if (lines.empty()) {
    throw core::Error(core::ErrorKind::kData,
                      file +
                          ": expected at least one record to compare, found none: the run has "
                          "not finished a step");
  }
  return lines;
}

// Steps of which both have hashes of the parameters.
std::size_t hashed_in_both(const std::vector<runtime::LedgerLine>& first,
                           const std::vector<runtime::LedgerLine>& second) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < std::min(first.size(), second.size()); ++i) {
    const bool both = first[i].find(runtime::kParameterHashes) != nullptr &&
                      second[i].find(runtime::kParameterHashes) != nullptr;
    count += both ? 1 : 0;
  }
  return count;
}

// Exit code 0: no difference; 1: the runs differ (as diff and cmp do).
int audit(const AuditOptions& options, std::ostream& out) {
  const auto first = ledger_of(options.first);
  const auto second = ledger_of(options.second);
  const auto difference = runtime::first_difference(first, second);
  const std::size_t common = std::min(first.size(), second.size());
  const std::size_t hashed = hashed_in_both(first, second);
  if (options.format == OutputFormat::kJson) {
    nlohmann::ordered_json json = {{"first_steps", first.size()},
                                   {"second_steps", second.size()},
                                   {"hashed_steps", hashed},
                                   {"equal", !difference}};
    if (difference) {
      json["step"] = difference->step;
      json["field"] = difference->field;
      json["first"] = difference->first;
      json["second"] = difference->second;
    }
    out << json.dump() << "\n";
  } else if (difference) {
    out << fmt::format("first difference at step {}: {}: {} against {}\n", difference->step,
                       difference->field, difference->first, difference->second);
  } else {
    const std::size_t more = std::max(first.size(), second.size()) - common;
    out << fmt::format(
        "no difference in the {} steps that both have ({} and {}); hashes of the parameters were "
        "compared at {} of them\n",
        common, first.size(), second.size(), hashed);
    if (more > 0) {
      out << fmt::format("{} goes on: {} more, compared with nothing\n",
                         first.size() > second.size() ? options.first : options.second, more);
    }
  }
  return difference ? 1 : 0;
}

}  // namespace

void add_audit_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "audit", "find the first step and field in which two runs' decisions differ");
  auto options = std::make_shared<AuditOptions>();
  command->add_option("first", options->first, "a run's output directory, or its ledger.jsonl")
      ->required()
      ->option_text("RUN");
  command->add_option("second", options->second, "another one")->required()->option_text("RUN");
  add_output_option(*command, options->format);
  set_action(*command, context, [options, &context] { return audit(*options, context.out); });
}

}  // namespace lockstep::launcher
