#include "coordinator/attempts/attempt_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <nlohmann/json.hpp>

#include "coordinator/model/run_json.h"
#include "core/error.h"

namespace lockstep::coordinator {

using nlohmann::json;

std::string attempt_tag(const AttemptRef& attempt) {
  return fmt::format("{}.{}.{}", attempt.run, attempt.number, attempt.fence);
}

std::string attempt_directory(const std::string& state_directory, const AttemptRef& attempt) {
  const auto legal = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  constexpr std::size_t kLongestId = 64;
  if (attempt.run.empty() || attempt.run.size() > kLongestId || attempt.number < 1 ||
      !std::all_of(attempt.run.begin(), attempt.run.end(), legal)) {
    throw core::Error(core::ErrorKind::kInternal,
                      "an attempt of a run whose id the server did not make");
  }
  return fmt::format("{}/runs/{}/attempts/{}", state_directory, attempt.run, attempt.number);
}

Descriptor open_beneath(int root, const std::string& path, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NONBLOCK);
  if ((flags & O_CREAT) != 0) how.mode = 0600;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  Descriptor fd(static_cast<int>(syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how))));
  struct stat status {};
  if (!fd || fstat(fd.get(), &status) != 0) return {};
  if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return {};
  return fd;
}

std::optional<std::string> read_small_file(const std::string& directory, const std::string& name,
                                           std::size_t limit) {
  const Descriptor folder(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return std::nullopt;
  const Descriptor file = open_beneath(folder.get(), name, O_RDONLY);
  if (!file) return std::nullopt;
  std::string text(limit + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = read(file.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > limit) return std::nullopt;
  text.resize(size);
  return text;
}

namespace {

json ref_to_json(const AttemptRef& attempt) {
  return {{"run", attempt.run}, {"number", attempt.number}, {"fence", attempt.fence}};
}

AttemptRef attempt_from(const json& value) {
  return {value.at("run"), value.at("number"), value.at("fence")};
}

FailureCategory category_from(const json& value) {
  const std::string name = value.get<std::string>();
  return name == to_string(FailureCategory::kUnspecified) ? FailureCategory::kUnspecified
                                                          : parse_failure_category(name);
}

json parse_object(const std::string& text, const char* what) {
  json value = json::parse(text, nullptr, false);
  if (!value.is_object()) {
    throw core::Error(core::ErrorKind::kData, fmt::format("{} holds no JSON object", what));
  }
  if (value.value("version", json(0)) != kAttemptFilesVersion) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{} is not of version {}", what, kAttemptFilesVersion));
  }
  return value;
}

// Runs `read`, which takes members out of a JSON object, and turns what the library throws into
// what the house throws.
template <typename Function>
auto reading(const char* what, Function read) {
  try {
    return read();
  } catch (const json::exception& error) {
    throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", what, error.what()));
  }
}

}  // namespace

std::string to_text(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

json to_json(const LaunchSpec& spec) {
  json hosts = json::array();
  for (const HostSlots& host : spec.hosts) {
    hosts.push_back({{"host", host.host}, {"address", host.address}, {"slots", host.slots}});
  }
  return {{"version", kAttemptFilesVersion},
          {"attempt", ref_to_json(spec.attempt)},
          {"config_file", spec.config_file},
          {"output", spec.output},
          {"resume", spec.resume},
          {"device_kind", spec.device_kind},
          {"hosts", std::move(hosts)},
          {"log_bytes", spec.logs.bytes},
          {"free_space", spec.logs.free_space},
          {"agent_address", spec.agent_address},
          {"agent_token_file", spec.agent_token_file},
          {"threads_per_rank", spec.threads_per_rank},
          {"environment", spec.environment},
          {"program", spec.program}};
}

LaunchSpec parse_launch_spec(const std::string& text) {
  return reading("launch.json", [&] {
    const json value = parse_object(text, "launch.json");
    LaunchSpec spec;
    spec.attempt = attempt_from(value.at("attempt"));
    spec.config_file = value.at("config_file");
    spec.output = value.at("output");
    spec.resume = value.at("resume");
    spec.device_kind = value.at("device_kind");
    for (const json& host : value.at("hosts")) {
      spec.hosts.push_back({host.at("host"), host.at("address"), host.at("slots")});
    }
    spec.logs.bytes = value.at("log_bytes");
    spec.logs.free_space = value.at("free_space");
    spec.agent_address = value.at("agent_address");
    spec.agent_token_file = value.at("agent_token_file");
    spec.threads_per_rank = value.at("threads_per_rank");
    if (value.contains("environment")) value.at("environment").get_to(spec.environment);
    spec.program = value.at("program").get<std::vector<std::string>>();
    return spec;
  });
}

json to_json(const StopRequest& request, std::int64_t fence) {
  return {{"version", kAttemptFilesVersion},
          {"verb", "stop"},
          {"fence", fence},
          {"force", request.force},
          {"grace_ns", request.grace_ns},
          {"cause", to_string(request.cause)},
          {"message", request.message}};
}

StopMessage parse_stop_message(const std::string& text) {
  return reading("a stop request", [&] {
    const json value = parse_object(text, "a stop request");
    StopMessage message;
    message.fence = value.at("fence");
    message.request.force = value.at("force");
    message.request.grace_ns = value.at("grace_ns");
    message.request.cause = category_from(value.at("cause"));
    message.request.message = value.at("message");
    return message;
  });
}

json to_json(const AttemptStatus& status) {
  json ranks = json::array();
  for (const RankProcess& rank : status.ranks) {
    ranks.push_back({{"rank", rank.rank}, {"pid", rank.pid}, {"alive", rank.alive}});
  }
  return {{"version", kAttemptFilesVersion},
          {"phase", static_cast<int>(status.phase)},
          {"supervisor_pid", status.supervisor_pid},
          {"ranks", std::move(ranks)},
          {"rung", static_cast<int>(status.rung)},
          {"exit", json(status.exit)},
          {"stuck", status.stuck},
          {"cleanup", status.cleanup},
          {"log_bytes", status.log_bytes},
          {"log_dropped", status.log_dropped},
          {"start_time_ns", status.start_time_ns},
          {"end_time_ns", status.end_time_ns}};
}

AttemptStatus parse_attempt_status(const std::string& text) {
  return reading("the state of an attempt", [&] {
    const json value = parse_object(text, "the state of an attempt");
    AttemptStatus status;
    const int phase = value.at("phase");
    const int rung = value.at("rung");
    if (phase < 1 || phase > static_cast<int>(AttemptPhase::kEnded) || rung < 0 ||
        rung > static_cast<int>(StopRung::kSweep)) {
      throw core::Error(core::ErrorKind::kData, "the state of an attempt has an unknown phase");
    }
    status.phase = static_cast<AttemptPhase>(phase);
    status.rung = static_cast<StopRung>(rung);
    status.supervisor_pid = value.at("supervisor_pid");
    for (const json& rank : value.at("ranks")) {
      status.ranks.push_back({rank.at("rank"), rank.at("pid"), rank.at("alive")});
    }
    status.exit = value.at("exit").get<ExitInfo>();
    status.stuck = value.at("stuck").get<std::vector<std::string>>();
    status.cleanup = value.at("cleanup");
    status.log_bytes = value.at("log_bytes");
    status.log_dropped = value.at("log_dropped");
    status.start_time_ns = value.at("start_time_ns");
    status.end_time_ns = value.at("end_time_ns");
    return status;
  });
}

std::string to_text(const SupervisorIdentity& identity) {
  return to_text(json{{"version", kAttemptFilesVersion},
                      {"boot_id", identity.boot_id},
                      {"pid", identity.pid},
                      {"start_ticks", identity.start_ticks}});
}

std::optional<SupervisorIdentity> read_supervisor_identity(const std::string& directory) {
  const auto text = read_small_file(directory, "supervisor.json");
  if (!text) return std::nullopt;
  try {
    return reading("supervisor.json", [&] {
      const json value = parse_object(*text, "supervisor.json");
      return SupervisorIdentity{value.at("boot_id"), value.at("pid"), value.at("start_ticks")};
    });
  } catch (const core::Error&) {
    return std::nullopt;
  }
}

std::optional<AttemptStatus> read_status(const std::string& directory, const std::string& name) {
  constexpr std::size_t kLargest = 16 << 20;  // thousands of ranks with messages
  const auto text = read_small_file(directory, name, kLargest);
  if (!text) return std::nullopt;
  try {
    return parse_attempt_status(*text);
  } catch (const core::Error&) {
    return std::nullopt;
  }
}

namespace {

constexpr const char* kReservedSuffix = ".reserve";

bool write_whole(int file, const std::string& text) {
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = write(file, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    written += static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace

bool reserve_file(const std::string& directory, const std::string& name, std::size_t bytes) {
  const Descriptor folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return false;
  const std::string reserved = name + kReservedSuffix;
  unlinkat(folder.get(), reserved.c_str(), 0);
  const Descriptor file(openat(folder.get(), reserved.c_str(),
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  return file && posix_fallocate(file.get(), 0, static_cast<off_t>(bytes)) == 0;
}

bool write_reserved_file(const std::string& directory, const std::string& name,
                         const std::string& text) {
  const Descriptor folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return false;
  const std::string reserved = name + kReservedSuffix;
  const Descriptor file(openat(folder.get(), reserved.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status {};
  // A rank may have put another file under this name.
  const bool own = file && fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode) &&
                   status.st_nlink == 1 && status.st_size >= static_cast<off_t>(text.size());
  const bool written = own && write_whole(file.get(), text) &&
                       ftruncate(file.get(), static_cast<off_t>(text.size())) == 0 &&
                       fsync(file.get()) == 0 &&
                       renameat(folder.get(), reserved.c_str(), folder.get(), name.c_str()) == 0;
  unlinkat(folder.get(), reserved.c_str(), 0);  // its room helps what is written instead
  return written ? fsync(folder.get()) == 0 : write_file(directory, name, text, true);
}

bool write_file(const std::string& directory, const std::string& name, const std::string& text,
                bool synced) {
  const Descriptor folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return false;
  // Whatever lies under this name, a link of a rank perhaps, is put aside and never followed.
  const std::string temporary = name + ".tmp";
  unlinkat(folder.get(), temporary.c_str(), 0);
  const Descriptor file(openat(folder.get(), temporary.c_str(),
                               O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return false;
  if (!write_whole(file.get(), text)) return false;
  if (synced && fsync(file.get()) != 0) return false;
  if (renameat(folder.get(), temporary.c_str(), folder.get(), name.c_str()) != 0) return false;
  return !synced || fsync(folder.get()) == 0;
}

std::int64_t unix_now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace lockstep::coordinator
