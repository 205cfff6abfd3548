#include "coordinator/engine/attempt_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fmt/format.h>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/launch_command.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"
#include "core/error.h"
#include "core/processors.h"
#include "runtime/files/write_file.h"

namespace lockstep::coordinator {
namespace {

constexpr const char* kRecordFile = "record.json";

std::string run_directory(const EngineOptions& options, const std::string& run) {
  return fmt::format("{}/runs/{}", options.state_directory, run);
}

void make_run_directory(const EngineOptions& options, const std::string& run) {
  std::error_code error;
  std::filesystem::create_directories(run_directory(options, run), error);
  if (error) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: {}", run_directory(options, run), error.message()));
  }
}

[[noreturn]] void fail(const std::string& path) {
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("cannot write {}: {}", path, std::strerror(errno)));
}

}  // namespace

std::string config_file(const EngineOptions& options, const std::string& run) {
  return run_directory(options, run) + "/config.yaml";
}

std::string token_file(const EngineOptions& options, const AttemptRef& attempt) {
  return fmt::format("{}/agent-{}.token", run_directory(options, attempt.run), attempt.number);
}

void write_config_file(const EngineOptions& options, const Run& run) {
  make_run_directory(options, run.id);
  runtime::replace_file(config_file(options, run.id), run.texts->resolved_config);
}

void write_token_file(const EngineOptions& options, const AttemptRef& attempt,
                      const std::string& secret) {
  make_run_directory(options, attempt.run);
  const std::string path = token_file(options, attempt);
  ::unlink(path.c_str());
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) fail(path);
  const bool written =
      ::write(file, secret.data(), secret.size()) == static_cast<ssize_t>(secret.size()) &&
      ::fsync(file) == 0;
  ::close(file);
  if (!written) fail(path);
}

void remove_token_file(const EngineOptions& options, const AttemptRef& attempt) noexcept {
  ::unlink(token_file(options, attempt).c_str());
}

namespace {

nlohmann::json whole_of(const RunRecord& record) {
  const RunTexts& texts = *record.run.texts;
  return {{"record", record},
          {"texts",
           {{"config_yaml", texts.config_yaml},
            {"config_source", texts.config_source},
            {"resolved_config", texts.resolved_config}}}};
}

}  // namespace

bool write_record_file(const EngineOptions& options, const RunRecord& record,
                       bool synced) noexcept {
  try {
    const std::string body = canonical_text(whole_of(record));
    const nlohmann::json file = {{"version", 1}, {"sha256", sha256_hex(body)}, {"body", body}};
    make_run_directory(options, record.run.id);
    return write_file(run_directory(options, record.run.id), kRecordFile, to_text(file), synced);
  } catch (const std::exception&) {
    return false;
  }
}

RunRecord read_record_file(const EngineOptions& options, const std::string& run) {
  constexpr std::size_t kLargest = 16 << 20;
  const std::string path = run_directory(options, run) + "/" + kRecordFile;
  const auto text = read_small_file(run_directory(options, run), kRecordFile, kLargest);
  if (!text) throw core::Error(core::ErrorKind::kData, path + " is not there");
  try {
    const auto file = nlohmann::json::parse(*text);
    const auto body = file.at("body").get<std::string>();
    if (file.at("version") != 1 || sha256_hex(body) != file.at("sha256")) {
      throw core::Error(core::ErrorKind::kData, path + " does not have its hash");
    }
    const auto whole = nlohmann::json::parse(body);
    auto record = whole.at("record").get<RunRecord>();
    auto texts = std::make_shared<RunTexts>();
    whole.at("texts").at("config_yaml").get_to(texts->config_yaml);
    whole.at("texts").at("config_source").get_to(texts->config_source);
    whole.at("texts").at("resolved_config").get_to(texts->resolved_config);
    record.run.texts = std::move(texts);
    if (record.run.id != run)
      throw core::Error(core::ErrorKind::kData, path + " is of another run");
    return record;
  } catch (const nlohmann::json::exception& error) {
    throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", path, error.what()));
  }
}

namespace {

// A slot of this machine stands for an equal part of its cores, whoever leases the others. Of other
// machines nothing is known here, and an OMP_NUM_THREADS of the coordinator's own holds for all.
int threads_of_slot(const HostSpec& host) {
  if (std::getenv("OMP_NUM_THREADS") != nullptr || !is_this_machine(host.address)) return 0;
  return std::max(1, core::usable_cores() / host.slots);
}

}  // namespace

namespace {

// What the configuration lets through of the coordinator's own environment, and over it what the run
// sets itself.
std::map<std::string, std::string> environment_of(const EngineOptions& options, const Run& run) {
  std::map<std::string, std::string> environment;
  for (const char* const* variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = text.substr(0, equals);
    if (allows_variable(options.environment.pass, name)) {
      environment.emplace(name, text.substr(equals + 1));
    }
  }
  for (const auto& [name, value] : run.environment) {
    // The configuration may have become stricter since the run was submitted.
    if (allows_variable(options.environment.runs, name)) environment[name] = value;
  }
  return environment;
}

}  // namespace

LaunchSpec launch_spec(const EngineOptions& options, const RunRecord& record) {
  const Attempt& attempt = *record.current();
  LaunchSpec spec;
  spec.attempt = record.current_ref();
  spec.config_file = config_file(options, record.run.id);
  spec.output = record.run.output;
  spec.resume = attempt.resume;
  for (const Placement& placement : attempt.placements) {
    for (const HostSpec& host : options.hosts) {
      if (host.name != placement.host) continue;
      spec.device_kind = host.kind;
      const int threads = threads_of_slot(host);
      spec.threads_per_rank =
          spec.hosts.empty() ? threads : std::min(spec.threads_per_rank, threads);
      spec.hosts.push_back({host.name, host.address, placement.slots});
    }
  }
  spec.environment = environment_of(options, record.run);
  spec.logs.bytes = options.log_bytes;
  spec.agent_address = options.agent_address;
  if (!options.agent_address.empty()) spec.agent_token_file = token_file(options, spec.attempt);
  spec.program = options.program;
  return spec;
}

}  // namespace lockstep::coordinator
