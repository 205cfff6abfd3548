#include "core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include "core/error.h"

namespace lockstep::core {

namespace {

constexpr const char* kPattern = "%H:%M:%S.%e %L %v";

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

Logger::Logger(int rank, int world_size, LogLevel console_level)
    : rank_(rank), world_size_(world_size) {
  console_ = std::make_unique<spdlog::logger>("console",
                                              std::make_shared<spdlog::sinks::stderr_sink_mt>());
  console_->set_pattern(kPattern);
  const LogLevel least = rank == 0 ? console_level : std::max(console_level, LogLevel::kWarning);
  console_->set_level(to_spdlog(least));
  console_->flush_on(spdlog::level::trace);
}

Logger::~Logger() = default;

void Logger::open_file(const std::string& path) {
  try {
    file_ = std::make_unique<spdlog::logger>(
        "file", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path, false));
  } catch (const spdlog::spdlog_ex& failure) {
    throw Error(ErrorKind::kConfig,
                fmt::format("cannot open the log file {}: {}", path, failure.what()));
  }
  file_->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  file_->set_level(spdlog::level::trace);
  file_->flush_on(spdlog::level::trace);
}

void Logger::write(LogLevel level, const char* area, const std::string& message) {
  const std::string line =
      world_size_ == 1 ? fmt::format("[{}] {}", area, message)
                       : fmt::format("[rank {}/{}][{}] {}", rank_, world_size_, area, message);
  console_->log(to_spdlog(level), line);
  if (file_) file_->log(to_spdlog(level), line);
}

}  // namespace lockstep::core
