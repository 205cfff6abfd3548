#include "coordinator/server/coordinator_process.h"

#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <ostream>
#include <utility>

#include "coordinator/attempts/supervised_attempts.h"
#include "coordinator/engine/engine.h"
#include "coordinator/engine/engine_loop.h"
#include "coordinator/engine/file_checkpoints.h"
#include "coordinator/model/failpoint.h"
#include "coordinator/server/coordinator_server.h"
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

// The signals that end the coordinator. They are held back in this thread and all that it starts,
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

int serve_until_signal(Engine& engine, CoordinatorServer& server, ServerLog& log,
                       const EndSignals& signals) {
  bool healthy = true;
  while (true) {
    const int signal = signals.wait(kHealthNs);
    if (signal != 0) {
      log.write(core::LogLevel::kInfo, "stopping", {{"signal", signal}});
      return 0;
    }
    if (engine.store_healthy() == healthy) continue;
    healthy = !healthy;
    server.set_serving(healthy);
    log.write(healthy ? core::LogLevel::kInfo : core::LogLevel::kError, "store_health",
              {{"healthy", healthy}});
  }
}

}  // namespace

int run_coordinator(const CoordinatorCommand& command, std::ostream& out) {
  const CoordinatorConfig config = configuration_of(command);
  if (!command.failpoints.empty()) arm_failpoints(command.failpoints);
  const EndSignals signals;
  raise_descriptor_limit();
  ServerLog log(config.log.file, parse_log_level(config.log.level));
  core::Logger engine_log;
  const auto begin = std::chrono::steady_clock::now();
  Store store(config.state_directory);
  SupervisedAttempts attempts({config.state_directory.string(), ""});
  FileCheckpoints checkpoints(engine_log);
  const SystemClock clock;
  Engine engine(store, attempts, checkpoints, clock, engine_log, engine_options(config));
  ServerMetrics metrics;
  const std::chrono::duration<double> replay = std::chrono::steady_clock::now() - begin;
  metrics.set_replay_seconds(replay.count());
  const Subscription subscription(engine, [&log, &metrics](const Notice& notice) {
    metrics.count_event(notice);
    log_event(log, notice);
  });
  EngineLoop loop(engine, engine_log);
  CoordinatorServer server(engine, config, log, metrics, &EndSignals::raise);
  log.write(core::LogLevel::kInfo, "started",
            {{"version", core::kVersion}, {"replay_seconds", replay.count()}});
  for (const ListenAddress& address : server.addresses())
    out << "listening on " << address.text() << "\n";
  out << std::flush;
  const int code = serve_until_signal(engine, server, log, signals);
  server.shutdown();
  log.write(core::LogLevel::kInfo, "stopped", nlohmann::ordered_json::object());
  return code;
}

}  // namespace lockstep::coordinator
