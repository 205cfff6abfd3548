#include "coordinator/server/coordinator_process.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <grpc/support/log.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <utility>

#include "coordinator/attempts/launch_command.h"
#include "coordinator/attempts/supervised_attempts.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/engine_loop.h"
#include "coordinator/engine/file_checkpoints.h"
#include "coordinator/model/failpoint.h"
#include "coordinator/server/coordinator_server.h"
#include "coordinator/server/hook_runner.h"
#include "coordinator/server/server_log.h"
#include "coordinator/server/server_metrics.h"
#include "coordinator/store/store.h"
#include "core/build_config.h"
#include "core/error.h"
#include "core/log.h"

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kHealthNs = 500'000'000;  // between looks at the store's health

CoordinatorConfig configuration_of(const CoordinatorCommand& command) {
  CoordinatorConfig config = command.config_file.empty()
                                 ? default_coordinator_config()
                                 : load_coordinator_config(command.config_file);
  if (command.addresses.empty()) return config;
  const std::string old_default = config.listen.empty() ? "" : config.listen.front().text();
  config.listen.clear();
  for (const std::string& text : command.addresses)
    config.listen.push_back(parse_listen_address(text));
  // Agents that were to use an address of the file use the first of those that are listened on now.
  if (config.agent_address.empty() || config.agent_address == old_default) {
    config.agent_address = config.listen.front().text();
  }
  return config;
}

// The signals that the coordinator acts upon. They are held back in this thread and all that it starts,
// so that they are taken here alone, between two calls.
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&signals_);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP})
      sigaddset(&signals_, signal);
    pthread_sigmask(SIG_BLOCK, &signals_, &old_);
    // A client that goes away is no reason to die.
    std::signal(SIGPIPE, SIG_IGN);
  }
  ~EndSignals() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // The signal that came within the time; 0: none.
  int wait(std::int64_t ns) const {
    const timespec time = {ns / kSecond, ns % kSecond};
    const int signal = sigtimedwait(&signals_, nullptr, &time);
    return signal < 0 ? 0 : signal;
  }
  // As if one had come; from any thread.
  static void raise() { ::kill(::getpid(), SIGTERM); }

 private:
  sigset_t signals_{};
  sigset_t old_{};
};

// Every connection is a descriptor, and so is every log that is read.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

EngineOptions engine_options(const CoordinatorConfig& config) {
  EngineOptions options;
  options.state_directory = config.state_directory.string();
  for (const HostConfig& host : config.hosts)
    options.hosts.push_back({host.name, host.address, host.kind, host.slots});
  options.agent_address = config.agent_address;
  options.max_queued = config.limits.queued_runs;
  options.max_queued_per_caller = config.limits.queued_runs_per_caller;
  options.log_bytes = config.limits.log_bytes_per_run;
  options.check_data =
      std::any_of(config.hosts.begin(), config.hosts.end(),
                  [](const HostConfig& host) { return is_this_machine(host.address); });
  options.environment = config.environment;
  options.retention = config.retention;
  return options;
}

// One line for each event and each change of state; what the engine does is read here.
void log_event(ServerLog& log, const Notice& notice) {
  if (notice.event == nullptr) return;
  const Event& event = *notice.event;
  log.write(core::LogLevel::kInfo, "run_event",
            {{"run", event.run},
             {"attempt", notice.run->run.current_attempt},
             {"sequence", event.sequence},
             {"kind", to_string(event.kind)},
             {"state", to_string(notice.run->run.state)},
             {"actor", event.actor}});
}

// Calls a listener of the engine as long as it lives.
class Subscription {
 public:
  Subscription(Engine& engine, Listener listener)
      : engine_(engine), id_(engine.subscribe(std::move(listener))) {}
  ~Subscription() { engine_.unsubscribe(id_); }
  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

 private:
  Engine& engine_;
  const std::int64_t id_;
};

// The library would write lines of its own about every connection that fails.
void silence_grpc() {
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

// One coordinator, from the opening of the store to the end of the last call.
class Coordinator {
 public:
  Coordinator(const CoordinatorConfig& config, SupervisedAttempts& attempts)
      : config_(config),
        log_(config.log.file, parse_log_level(config.log.level)),
        begin_(std::chrono::steady_clock::now()),
        store_(config.state_directory),
        checkpoints_(engine_log_),
        engine_(store_, attempts, checkpoints_, clock_, engine_log_, engine_options(config)),
        subscription_(engine_, [this](const Notice& notice) {
          metrics_.count_event(notice);
          log_event(log_, notice);
        }) {
    const std::chrono::duration<double> replay = std::chrono::steady_clock::now() - begin_;
    metrics_.set_replay_seconds(replay.count());
    hooks_.emplace(engine_, config.hooks, config.state_directory, log_);
    loop_.emplace(engine_, engine_log_);
    listen();
    log_.write(core::LogLevel::kInfo, "started",
               {{"version", core::kVersion}, {"replay_seconds", replay.count()}});
  }
  ~Coordinator() {
    server_->shutdown();
    log_.write(core::LogLevel::kInfo, "stopped", nlohmann::ordered_json::object());
  }
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  const std::vector<ListenAddress>& addresses() const { return server_->addresses(); }
  ServerLog& log() { return log_; }

  // Until a signal comes, which it returns.
  int serve(const EndSignals& signals) {
    bool healthy = true;
    while (true) {
      const int signal = signals.wait(kHealthNs);
      if (signal != 0) return signal;
      if (server_->lost_a_socket()) listen_again();
      if (engine_.store_healthy() == healthy) continue;
      healthy = !healthy;
      server_->set_serving(healthy);
      log_.write(healthy ? core::LogLevel::kInfo : core::LogLevel::kError, "store_health",
                 {{"healthy", healthy}});
    }
  }

  // Throws core::Error(kConfig) if what runs now could not go on under that configuration.
  void require_fits(const CoordinatorConfig& next) const {
    if (next.state_directory != config_.state_directory) {
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("state_directory: {} cannot be changed by a reload; stop the "
                                    "coordinator for that",
                                    config_.state_directory.string()));
    }
    engine_.require_hosts(engine_options(next).hosts);
  }

 private:
  void listen() {
    server_ =
        std::make_unique<CoordinatorServer>(engine_, config_, log_, metrics_, &EndSignals::raise);
  }
  // Calls that go on are ended; who follows comes back.
  void listen_again() {
    log_.write(core::LogLevel::kWarning, "socket_removed", nlohmann::ordered_json::object());
    try {
      server_->shutdown();
      listen();
    } catch (const core::Error& error) {
      log_.write(core::LogLevel::kError, "cannot_listen", {{"message", error.what()}});
    }
  }

  const CoordinatorConfig config_;
  ServerLog log_;
  core::Logger engine_log_;
  const std::chrono::steady_clock::time_point begin_;
  Store store_;
  FileCheckpoints checkpoints_;
  const SystemClock clock_;
  ServerMetrics metrics_;
  Engine engine_;
  const Subscription subscription_;
  std::optional<HookRunner> hooks_;
  std::optional<EngineLoop> loop_;
  std::unique_ptr<CoordinatorServer> server_;
};

// The new configuration; nothing if it cannot hold, with the reason in the log.
std::optional<CoordinatorConfig> reloaded(const CoordinatorCommand& command,
                                          Coordinator& coordinator) {
  try {
    CoordinatorConfig next = configuration_of(command);
    coordinator.require_fits(next);
    coordinator.log().write(core::LogLevel::kInfo, "reload", nlohmann::ordered_json::object());
    return next;
  } catch (const core::Error& error) {
    coordinator.log().write(core::LogLevel::kError, "reload_refused", {{"message", error.what()}});
    return std::nullopt;
  }
}

// What can be said without a store: the configuration has been read.
int tell_checked(const CoordinatorConfig& config, std::ostream& out) {
  for (const HostConfig& host : config.hosts)
    out << fmt::format("host {}: {} {} slots at {}\n", host.name, host.slots, host.kind,
                       host.address);
  for (const ListenAddress& address : config.listen)
    out << "would listen on " << address.text() << "\n";
  const auto list = [&](const char* what, const std::vector<std::string>& words) {
    if (!words.empty()) out << fmt::format("{}: {}\n", what, fmt::join(words, ", "));
  };
  list("variables of all runs", config.environment.pass);
  list("variables that runs may set", config.environment.runs);
  for (const std::vector<std::string>& command : config.hooks.run_ended)
    list("when a run has ended", command);
  out << "state directory " << config.state_directory.string() << "\n";
  return 0;
}

}  // namespace

int run_coordinator(const CoordinatorCommand& command, std::ostream& out) {
  CoordinatorConfig config = configuration_of(command);
  if (command.check) return tell_checked(config, out);
  if (!command.failpoints.empty()) arm_failpoints(command.failpoints);
  const EndSignals signals;
  raise_descriptor_limit();
  silence_grpc();
  // Supervisors are children of this process, so their keeper outlives a reload.
  SupervisedAttempts attempts({config.state_directory.string(), ""});
  auto coordinator = std::make_unique<Coordinator>(config, attempts);
  for (const ListenAddress& address : coordinator->addresses())
    out << "listening on " << address.text() << "\n";
  out << std::flush;
  while (true) {
    const int signal = coordinator->serve(signals);
    if (signal != SIGHUP) {
      coordinator->log().write(core::LogLevel::kInfo, "stopping", {{"signal", signal}});
      return 0;
    }
    const std::optional<CoordinatorConfig> next = reloaded(command, *coordinator);
    if (!next) continue;
    coordinator.reset();
    try {
      coordinator = std::make_unique<Coordinator>(*next, attempts);
      config = *next;
    } catch (const core::Error& error) {
      coordinator = std::make_unique<Coordinator>(config, attempts);
      coordinator->log().write(core::LogLevel::kError, "reload_refused",
                               {{"message", error.what()}});
    }
  }
}

}  // namespace lockstep::coordinator
