#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::runtime {
class Problems;
class StrictMap;
}  // namespace lockstep::runtime

// Sections of coordinator.yaml that say what the coordinator does with runs: what their ranks get
// from the environment, how long they are kept, and what is started when one ends.
namespace lockstep::coordinator {

// Highest first; legal is from -kMaxPriority to kMaxPriority.
inline constexpr int kMaxPriority = 1000;

// Names of variables: whole ones, or with a '*' at the end all that begin so.
struct EnvironmentPolicy {
  std::vector<std::string> pass{};  // of the coordinator's own, that the ranks of all runs get
  std::vector<std::string> runs{};  // that a run may set itself

  bool operator==(const EnvironmentPolicy&) const = default;
};

// Whether one of the patterns has the name. Never so for a variable by which the coordinator or
// mpirun steers a rank: OMPI_*, PMIX_*, PRTE_*, LOCKSTEP_*.
bool allows_variable(const std::vector<std::string>& patterns, std::string_view name);
// A letter or '_', then letters, digits and '_'.
bool is_variable_name(std::string_view name);

// What is kept of runs that have ended. 0: no limit.
struct RetentionPolicy {
  std::int64_t runs = 0;      // so many of them, the newest
  std::int64_t age_ns = 0;    // those that ended so long ago at most
  std::int32_t attempts = 0;  // the files of so many attempts of a run, the newest
  std::int64_t logs_ns = 0;   // the logs of attempts that ended so long ago at most

  bool operator==(const RetentionPolicy&) const = default;
};

// Commands that are started when a run has ended; argv, without a shell.
struct HookPolicy {
  std::vector<std::vector<std::string>> run_ended{};
  std::int64_t timeout_ns = std::int64_t{60} * 1'000'000'000;  // of one command

  bool operator==(const HookPolicy&) const = default;
};

// The sections `environment`, `retention` and `hooks` of the whole file.
void read_environment(runtime::StrictMap& root, EnvironmentPolicy& policy,
                      runtime::Problems& problems);
void read_retention(runtime::StrictMap& root, RetentionPolicy& policy, runtime::Problems& problems);
void read_hooks(runtime::StrictMap& root, HookPolicy& policy, runtime::Problems& problems);

}  // namespace lockstep::coordinator
