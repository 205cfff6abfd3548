#include "coordinator/server/hook_runner.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <utility>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/descriptor.h"
#include "coordinator/attempts/launch_command.h"
#include "coordinator/attempts/start_process.h"
#include "core/error.h"
#include "runtime/files/write_file.h"

namespace lockstep::coordinator {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLook{20};
constexpr std::chrono::seconds kAtTheEnd{3};
constexpr std::size_t kLongestValue = 4096;
constexpr int kBatch = 500;

// What a run may say about itself is data; a NUL would end it.
std::string value_of(const std::string& text) {
  return text.substr(0, std::min(text.find('\0'), kLongestValue));
}

Environment environment_of(const Run& run) {
  Environment environment = allowed_environment(environ);
  environment["LOCKSTEP_RUN"] = run.id;
  environment["LOCKSTEP_RUN_NAME"] = value_of(run.display_name);
  environment["LOCKSTEP_RUN_STATE"] = to_string(run.state);
  environment["LOCKSTEP_RUN_REASON"] = value_of(run.state_reason);
  environment["LOCKSTEP_RUN_MESSAGE"] = value_of(run.state_message);
  environment["LOCKSTEP_RUN_OUTPUT"] = value_of(run.output);
  environment["LOCKSTEP_RUN_OWNER"] = value_of(run.owner);
  return environment;
}

std::int64_t remembered(const std::filesystem::path& file, std::int64_t otherwise) {
  std::ifstream in(file);
  const auto value = nlohmann::json::parse(in, nullptr, false);
  const bool right =
      value.is_object() && value.contains("served") && value["served"].is_number_integer();
  return right ? value["served"].get<std::int64_t>() : otherwise;
}

}  // namespace

HookRunner::HookRunner(Engine& engine, HookPolicy policy, std::filesystem::path directory,
                       ServerLog& log)
    : engine_(engine), policy_(std::move(policy)), directory_(std::move(directory)), log_(log) {
  if (policy_.run_ended.empty()) return;
  const std::int64_t newest = engine.newest_sequence();
  served_ = std::min(remembered(directory_ / "hooks.json", newest), newest);
  remember(served_);
  subscription_ = engine.subscribe([this](const Notice& notice) {
    if (notice.event == nullptr || notice.event->kind != EventKind::kTerminal) return;
    const std::lock_guard lock(mutex_);
    ends_.push_back({notice.event->sequence, notice.run});
    changed_.notify_all();
  });
  thread_ = std::thread([this] { run(); });
}

HookRunner::~HookRunner() {
  if (!thread_.joinable()) return;
  engine_.unsubscribe(subscription_);
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void HookRunner::remember(std::int64_t sequence) {
  served_ = sequence;
  try {
    runtime::replace_file((directory_ / "hooks.json").string(),
                          nlohmann::json{{"version", 1}, {"served", sequence}}.dump() + "\n");
  } catch (const core::Error& error) {
    log_.write(core::LogLevel::kWarning, "hooks_not_remembered", {{"message", error.what()}});
  }
}

// What ended while no coordinator was there to start them.
void HookRunner::catch_up() {
  std::vector<End> missed;
  const std::int64_t newest = engine_.newest_sequence();
  for (std::int64_t position = served_; position < newest;) {
    const std::vector<Event> events = engine_.events("", position, kBatch);
    if (events.empty()) break;
    for (const Event& event : events) {
      position = event.sequence;
      if (event.kind != EventKind::kTerminal) continue;
      try {
        missed.push_back({event.sequence, engine_.find(event.run)});
      } catch (const EngineError&) {
        // It was deleted meanwhile, or is quarantined.
      }
    }
  }
  const std::lock_guard lock(mutex_);
  const std::int64_t last = missed.empty() ? 0 : missed.back().sequence;
  std::erase_if(ends_, [last](const End& end) { return end.sequence <= last; });
  ends_.insert(ends_.begin(), missed.begin(), missed.end());
}

void HookRunner::run() {
  catch_up();
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !ends_.empty(); });
    if (stop_) return;
    const End end = ends_.front();
    ends_.pop_front();
    lock.unlock();
    const bool whole = end.sequence <= served_ || serve(end);
    if (whole && end.sequence > served_) remember(end.sequence);
    lock.lock();
  }
}

bool HookRunner::serve(const End& end) {
  for (const std::vector<std::string>& command : policy_.run_ended) {
    if (!start(command, end.run->run)) return false;
  }
  return true;
}

bool HookRunner::start(const std::vector<std::string>& command, const Run& run) {
  const Descriptor out(::open((directory_ / "hooks.log").c_str(),
                              O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600));
  StartedProcess process;
  process.arguments = command;
  process.environment = to_block(environment_of(run));
  process.out = process.err = out ? out.get() : -1;
  process.new_session = true;
  nlohmann::ordered_json told = {{"run", run.id}, {"command", command.front()}};
  try {
    const Outcome outcome = wait_for(start_process(process));
    const bool exited = WIFEXITED(outcome.status);
    told["exit"] = exited ? WEXITSTATUS(outcome.status) : 128 + WTERMSIG(outcome.status);
    if (outcome.late)
      told["message"] = "it did not end within hooks.timeout_seconds, and was killed";
    const bool fine = exited && WEXITSTATUS(outcome.status) == 0;
    log_.write(fine ? core::LogLevel::kInfo : core::LogLevel::kError, "hook", told);
    return !outcome.cut_short;
  } catch (const core::Error& error) {
    told["message"] = error.what();
    log_.write(core::LogLevel::kError, "hook", told);
    return true;
  }
}

// Until it has ended, or its time is over, or there is to be an end of everything.
HookRunner::Outcome HookRunner::wait_for(pid_t child) {
  Outcome outcome;
  const auto began = steady_clock::now();
  while (::waitpid(child, &outcome.status, WNOHANG) == 0) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kLook, [] { return false; });
    const auto passed = steady_clock::now() - began;
    outcome.cut_short = stop_ && passed > kAtTheEnd;
    outcome.late = passed > std::chrono::nanoseconds(policy_.timeout_ns);
    if (!outcome.cut_short && !outcome.late) continue;
    ::kill(-child, SIGKILL);
    ::waitpid(child, &outcome.status, 0);
    break;
  }
  return outcome;
}

}  // namespace lockstep::coordinator
