#include "coordinator/server/server_log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kFileBytes = std::size_t{32} << 20;
constexpr std::size_t kFiles = 3;  // beside the one that is written

const char* name_of(core::LogLevel level) {
  switch (level) {
    case core::LogLevel::kDebug:
      return "debug";
    case core::LogLevel::kInfo:
      return "info";
    case core::LogLevel::kWarning:
      return "warning";
    case core::LogLevel::kError:
      return "error";
  }
  return "?";
}

std::string now_text() {
  const auto now = std::chrono::system_clock::now();
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(seconds), milliseconds);
}

std::shared_ptr<spdlog::sinks::sink> make_sink(const std::filesystem::path& file) {
  if (file.empty()) return std::make_shared<spdlog::sinks::stderr_sink_mt>();
  try {
    return std::make_shared<spdlog::sinks::rotating_file_sink_mt>(file.string(), kFileBytes,
                                                                  kFiles);
  } catch (const spdlog::spdlog_ex& error) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("log.file: cannot write to {}: {}", file.string(), error.what()));
  }
}

}  // namespace

ServerLog::ServerLog(const std::filesystem::path& file, core::LogLevel level)
    : level_(level), logger_(std::make_unique<spdlog::logger>("server", make_sink(file))) {
  logger_->set_pattern("%v");
  logger_->flush_on(spdlog::level::info);
}

ServerLog::~ServerLog() = default;

void ServerLog::write(core::LogLevel level, const char* event,
                      const nlohmann::ordered_json& fields) {
  if (level < level_) return;
  nlohmann::ordered_json line = {{"time", now_text()}, {"level", name_of(level)}, {"event", event}};
  line.update(fields);
  // Plain ASCII, so that no text of a caller can steer the terminal of who reads the log.
  std::string text = line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  for (std::size_t at = text.find('\x7f'); at != std::string::npos; at = text.find('\x7f', at))
    text.replace(at, 1, "\\u007f");
  logger_->info("{}", text);
}

core::LogLevel parse_log_level(const std::string& name) {
  for (const core::LogLevel level : {core::LogLevel::kDebug, core::LogLevel::kInfo,
                                     core::LogLevel::kWarning, core::LogLevel::kError}) {
    if (name == name_of(level)) return level;
  }
  throw core::Error(core::ErrorKind::kConfig,
                    "log.level: expected debug, info, warning or error, found '" + name + "'");
}

}  // namespace lockstep::coordinator
