#include "coordinator/attempts/launch_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "comm/mpi/mpirun.h"
#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/log_writer.h"
#include "coordinator/attempts/process.h"
#include "coordinator/model/coordinator_policy.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace {

// TMPDIR: where mpirun keeps its session; SSH_AUTH_SOCK: how it reaches other hosts; those of
// LOCKSTEP: with what certificates rank 0 speaks to a coordinator on another machine.
constexpr std::array<std::string_view, 17> kAllowedVariables = {"PATH",
                                                                "HOME",
                                                                "USER",
                                                                "LOGNAME",
                                                                "SHELL",
                                                                "LANG",
                                                                "LC_ALL",
                                                                "TZ",
                                                                "TMPDIR",
                                                                "SSH_AUTH_SOCK",
                                                                "TERM",
                                                                "OMP_NUM_THREADS",
                                                                "CUDA_HOME",
                                                                "LOCKSTEP_CA",
                                                                "OMP_WAIT_POLICY",
                                                                "LOCKSTEP_KEY",
                                                                "LOCKSTEP_CERTIFICATE"};

[[noreturn]] void refuse(const std::string& why) {
  throw core::Error(core::ErrorKind::kConfig, "cannot launch: " + why);
}

void check_text(const std::string& what, const std::string& text) {
  if (text.find('\0') != std::string::npos) refuse(what + " holds a NUL");
}

void check_path(const std::string& what, const std::string& path) {
  check_text(what, path);
  if (!path.starts_with("/"))
    refuse(fmt::format("{} is '{}'; expected an absolute path", what, path));
}

// In --host a comma separates hosts and a colon the slots.
void check_address(const std::string& address) {
  const auto legal = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '_';
  };
  if (address.empty() || address.front() == '-' ||
      !std::all_of(address.begin(), address.end(), legal)) {
    refuse(fmt::format("'{}' is no address of a host; expected letters, digits, '.', '-' and '_'",
                       address));
  }
}

}  // namespace

int LaunchSpec::ranks() const {
  std::size_t count = 0;
  for (const HostSlots& host : hosts)
    count += host.slots.size();
  return static_cast<int>(count);
}

const char* to_string(StopRung rung) {
  switch (rung) {
    case StopRung::kNone:
      return "none";
    case StopRung::kGraceful:
      return "graceful";
    case StopRung::kTerminate:
      return "terminate";
    case StopRung::kKill:
      return "kill";
    case StopRung::kEndLauncher:
      return "end_launcher";
    case StopRung::kKillLauncher:
      return "kill_launcher";
    case StopRung::kSweep:
      return "sweep";
  }
  return "unknown";
}

void check_launchable(const LaunchSpec& spec) {
  if (spec.ranks() < 1) refuse("no slots");
  for (const HostSlots& host : spec.hosts) {
    check_address(host.address);
    if (host.slots.empty()) refuse("no slots on host " + host.host);
  }
  check_path("the configuration file", spec.config_file);
  check_path("run.output", spec.output);
  if (spec.resume != "never" && spec.resume != "auto") check_path("the checkpoint", spec.resume);
  for (const std::string& word : spec.program)
    check_text("the program", word);
  for (const auto& [name, value] : spec.environment) {
    if (!allows_variable({"*"}, name)) refuse("'" + name + "' is no variable that a rank may get");
    check_text("the variable " + name, value);
  }
  check_text("the agent's address", spec.agent_address);
  if (!spec.agent_token_file.empty()) check_path("the agent's token file", spec.agent_token_file);
  for (const bool err : {false, true})
    LogLayout::of(log_part(spec.logs.bytes, spec.ranks(), err));
}

std::string visible_devices(const LaunchSpec& spec) {
  if (spec.device_kind != "gpu") return "";
  std::vector<std::string> of_ranks;
  for (const HostSlots& host : spec.hosts) {
    of_ranks.insert(of_ranks.end(), host.slots.size(),
                    fmt::format("{}", fmt::join(host.slots, ",")));
  }
  return fmt::format("{}", fmt::join(of_ranks, "/"));
}

namespace {

bool all_on_this_machine(const LaunchSpec& spec) {
  return std::all_of(spec.hosts.begin(), spec.hosts.end(),
                     [](const HostSlots& host) { return is_this_machine(host.address); });
}

}  // namespace

std::vector<std::string> launch_command(const LaunchSpec& spec, const std::string& directory,
                                        const std::string& self, const Environment& environment) {
  std::vector<std::string> hosts;
  for (const HostSlots& host : spec.hosts)
    hosts.push_back(fmt::format("{}:{}", host.address, host.slots.size()));
  comm::MpirunCall call;
  call.ranks = spec.ranks();
  call.hosts = hosts;
  if (spec.hosts.size() > 1) {
    for (const char* name :
         {kAttemptTagVariable, "LOCKSTEP_COORDINATOR", "LOCKSTEP_AGENT_TOKEN_FILE", "LOCKSTEP_CA",
          "LOCKSTEP_CERTIFICATE", "LOCKSTEP_KEY", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"}) {
      if (environment.contains(name)) call.exported.emplace_back(name);
    }
    for (const auto& [name, value] : spec.environment)
      call.exported.push_back(name);
  }
  call.program = {self, "rank-start", "--directory", directory, "--boot-id", boot_id()};
  if (const std::string devices = visible_devices(spec); !devices.empty()) {
    call.program.insert(call.program.end(), {"--devices", devices});
  }
  call.program.emplace_back("--");
  if (spec.program.empty()) {
    call.program.push_back(self);
  } else {
    call.program.insert(call.program.end(), spec.program.begin(), spec.program.end());
  }
  call.program.insert(call.program.end(), {"train", spec.config_file, "--resume", spec.resume});
  return comm::mpirun_command(call);
}

Environment allowed_environment(const char* const* parent) {
  Environment allowed;
  for (; *parent != nullptr; ++parent) {
    const std::string_view variable = *parent;
    const std::size_t equals = variable.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = variable.substr(0, equals);
    if (std::find(kAllowedVariables.begin(), kAllowedVariables.end(), name) !=
        kAllowedVariables.end()) {
      allowed.emplace(name, variable.substr(equals + 1));
    }
  }
  allowed.emplace("PATH", "/usr/local/bin:/usr/bin:/bin");
  return allowed;
}

bool is_this_machine(const std::string& address) {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  const std::string own = name.data();
  return address == "localhost" || address == "127.0.0.1" || address == own ||
         own.starts_with(address + ".") || address.starts_with(own + ".");
}

Environment rank_environment(const LaunchSpec& spec, Environment allowed,
                             const std::string& session) {
  for (const auto& [name, value] : spec.environment)
    allowed[name] = value;
  allowed[kAttemptTagVariable] = attempt_tag(spec.attempt);
  if (!spec.agent_address.empty()) {
    allowed["LOCKSTEP_COORDINATOR"] = spec.agent_address;
    allowed["LOCKSTEP_AGENT_TOKEN_FILE"] = spec.agent_token_file;
  }
  if (spec.threads_per_rank > 0) {
    const std::string threads = std::to_string(spec.threads_per_rank);
    if (!spec.environment.contains("OMP_NUM_THREADS")) allowed["OMP_NUM_THREADS"] = threads;
  }
  // Threads that wait by spinning take the cores from the ranks that they wait for.
  allowed.emplace("OMP_WAIT_POLICY", "passive");
  // Runs may share a machine, so whoever waits gives its core away. What mpirun has to say of ranks
  // that ended, the supervisor knows better; of hosts that cannot be reached it does not.
  const bool quiet = all_on_this_machine(spec);
  // The directory of the session is on this machine alone.
  const std::string place = quiet ? session : "";
  for (const auto& [name, value] : comm::mpirun_environment(place, true, quiet))
    allowed[name] = value;
  return allowed;
}

std::vector<std::string> to_block(const Environment& environment) {
  std::vector<std::string> block;
  for (const auto& [name, value] : environment)
    block.push_back(name + "=" + value);
  return block;
}

}  // namespace lockstep::coordinator
