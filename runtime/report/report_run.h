#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/config/config.h"
#include "runtime/report/run_curves.h"

namespace lockstep::runtime {

// A run that is shown or compared: what its files tell, and its configuration.
struct ReportRun {
  explicit ReportRun(std::filesystem::path directory) : curves(std::move(directory)) {}

  RunCurves curves;
  std::optional<Config> config;  // nothing: config.yaml is not there yet, or of another version
  std::string label;             // unlike those of the others
  // As in `lockstep doctor -o json`; null before there is a step, and where the doctor cannot read
  // the run.
  nlohmann::ordered_json findings;

  // Reads what is new; also config.yaml, once it is there. True when there is something new.
  bool refresh();
  // Asks the doctor, who reads the whole run: once, and then again for a run that went further, after
  // a pause of 20 times as long as it took him, and 10 s at least. True when there are findings anew.
  bool examine();
  int ranks() const;  // 0: not known

 private:
  std::int64_t examined_steps_ = 0;
  std::chrono::steady_clock::time_point next_examination_{};
};

// The runs with these output directories. Labels are the names of the directories, or their paths
// where names are alike. Throws Error(kData) for what is no directory.
std::vector<ReportRun> open_runs(const std::vector<std::string>& directories);

// Throws Error(kData), saying what to give instead, if one of the runs has no finished step.
void require_steps(const std::vector<ReportRun>& runs);

// A configuration key whose value is not the same in all runs; "" where a run's is not known.
struct DifferingKey {
  std::string key;
  std::vector<std::string> values;  // a run each
};

// In the order of the schema, without run.name and run.output.
std::vector<DifferingKey> differing_keys(const std::vector<const ReportRun*>& runs);

}  // namespace lockstep::runtime
