#include "coordinator/model/failpoint.h"

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <map>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

enum class Action { kCrash, kError, kDelay };

struct Armed {
  Action action = Action::kCrash;
  int delay_ms = 0;
  int passes_left = 1;  // acts when it comes to 1
};

struct Registry {
  std::atomic<bool> any = false;
  std::mutex mutex;
  std::map<std::string, Armed, std::less<>> armed;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

[[noreturn]] void refuse(const std::string& part) {
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("failpoint '{}': expected SITE[@N]=crash|error|delay:MS", part));
}

int parse_count(std::string_view text, const std::string& part) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) refuse(part);
  return value;
}

void arm_one(const std::string& part, std::map<std::string, Armed, std::less<>>& armed) {
  const std::size_t equals = part.find('=');
  if (equals == std::string::npos || equals == 0) refuse(part);
  std::string site = part.substr(0, equals);
  const std::string action = part.substr(equals + 1);
  Armed entry;
  if (const std::size_t at = site.find('@'); at != std::string::npos) {
    entry.passes_left = parse_count(std::string_view(site).substr(at + 1), part);
    site.resize(at);
  }
  if (action == "error") {
    entry.action = Action::kError;
  } else if (action.starts_with("delay:")) {
    entry.action = Action::kDelay;
    entry.delay_ms = parse_count(std::string_view(action).substr(6), part);
  } else if (action != "crash") {
    refuse(part);
  }
  armed[site] = entry;
}

}  // namespace

void arm_failpoints(const std::string& specification) {
  std::map<std::string, Armed, std::less<>> armed;
  std::size_t begin = 0;
  while (begin < specification.size()) {
    const std::size_t comma = std::min(specification.find(',', begin), specification.size());
    arm_one(specification.substr(begin, comma - begin), armed);
    begin = comma + 1;
  }
  const std::lock_guard lock(registry().mutex);
  registry().armed = std::move(armed);
  registry().any = !registry().armed.empty();
}

void disarm_failpoints() {
  arm_failpoints("");
}

void failpoint(const char* site) {
  if (!registry().any.load(std::memory_order_relaxed)) return;
  Armed entry;
  {
    const std::lock_guard lock(registry().mutex);
    const auto found = registry().armed.find(std::string_view(site));
    if (found == registry().armed.end()) return;
    if (found->second.passes_left > 1) {
      --found->second.passes_left;
      return;
    }
    entry = found->second;
  }
  if (entry.action == Action::kCrash) {
    ::kill(::getpid(), SIGKILL);
    ::pause();
  }
  if (entry.action == Action::kError) {
    throw core::Error(core::ErrorKind::kInternal, fmt::format("failpoint '{}'", site));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(entry.delay_ms));
}

}  // namespace lockstep::coordinator
