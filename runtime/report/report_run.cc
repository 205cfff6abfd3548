#include "runtime/report/report_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "runtime/config/dump_config.h"
#include "runtime/config/load_config.h"
#include "runtime/health/doctor.h"

namespace lockstep::runtime {
namespace {

std::string name_of_directory(const std::filesystem::path& directory) {
  const std::filesystem::path clean = std::filesystem::absolute(directory).lexically_normal();
  return (clean.has_filename() ? clean : clean.parent_path()).filename().string();
}

}  // namespace

bool ReportRun::refresh() {
  const bool news = curves.refresh();
  std::error_code failure;
  const std::filesystem::path file = curves.directory() / "config.yaml";
  if ((news || !config) && std::filesystem::exists(file, failure)) {
    try {
      config = load_config(file);
    } catch (const core::Error&) {
      config.reset();  // of another version of the program: curves are shown without it
    }
  }
  return news;
}

bool ReportRun::examine() {
  const auto begin = std::chrono::steady_clock::now();
  if (curves.steps() == examined_steps_ || begin < next_examination_) return false;
  examined_steps_ = curves.steps();
  try {
    const RunHistory history = read_run_history(curves.directory().string());
    findings = nlohmann::ordered_json::parse(to_json(history, diagnose(history)))["findings"];
  } catch (const core::Error&) {
    findings =
        nullptr;  // without config.yaml, or of another version: curves are shown all the same
  }
  constexpr std::chrono::seconds kPause{10};
  const auto end = std::chrono::steady_clock::now();
  next_examination_ =
      end + std::max<std::chrono::steady_clock::duration>(kPause, 20 * (end - begin));
  return true;
}

int ReportRun::ranks() const {
  const nlohmann::ordered_json& line = curves.run_line();
  return line.is_object() ? line.value("ranks", 0) : 0;
}

std::vector<ReportRun> open_runs(const std::vector<std::string>& directories) {
  std::vector<ReportRun> runs;
  std::map<std::string, int> times;
  for (const std::string& directory : directories) {
    if (!std::filesystem::is_directory(directory)) {
      throw core::Error(
          core::ErrorKind::kData,
          fmt::format("{}: expected the output directory of a run (run.output), found "
                      "{}",
                      directory, std::filesystem::exists(directory) ? "a file" : "nothing"));
    }
    runs.emplace_back(directory);
    ++times[name_of_directory(directory)];
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const std::string name = name_of_directory(directories[i]);
    runs[i].label = times[name] > 1 ? directories[i] : name;
    const auto same = [&](const ReportRun& other) { return other.label == runs[i].label; };
    if (std::any_of(runs.begin(), runs.begin() + static_cast<std::ptrdiff_t>(i), same))
      runs[i].label += fmt::format(" ({})", i + 1);
  }
  return runs;
}

void require_steps(const std::vector<ReportRun>& runs) {
  for (const ReportRun& run : runs) {
    if (run.curves.steps() > 0) continue;
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("{}: expected step lines in metrics.jsonl, found {}: give the run.output of a "
                    "run that has finished a step",
                    run.curves.directory().string(),
                    run.curves.has_metrics() ? "none" : "no such file, or an empty one"));
  }
}

std::vector<DifferingKey> differing_keys(const std::vector<const ReportRun*>& runs) {
  const auto first = std::find_if(runs.begin(), runs.end(),
                                  [](const ReportRun* run) { return run->config.has_value(); });
  std::vector<DifferingKey> keys;
  if (first == runs.end()) return keys;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i]->config) continue;
    for (const ConfigDifference& d : diff_configs(*(*first)->config, *runs[i]->config)) {
      if (d.key == "run.name" || d.key == "run.output") continue;
      auto key = std::find_if(keys.begin(), keys.end(),
                              [&](const DifferingKey& known) { return known.key == d.key; });
      if (key == keys.end()) {
        key = keys.insert(key, {d.key, std::vector<std::string>(runs.size(), d.before)});
        for (std::size_t k = 0; k < runs.size(); ++k)
          if (!runs[k]->config) key->values[k].clear();
      }
      key->values[i] = d.after;
    }
  }
  return keys;
}

}  // namespace lockstep::runtime
