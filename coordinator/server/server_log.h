#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "core/log.h"

namespace spdlog {
class logger;
}

namespace lockstep::coordinator {

// The server's own log: one JSON object a line, with `time` (RFC 3339), `level` and `event`, and
// where they apply `run`, `attempt`, `request_id`, `method`, `code`, `caller`. Secrets are never
// given to it. Thread-safe.
class ServerLog {
 public:
  // file: rotated at 32 MiB, four are kept; empty: standard error. Throws core::Error(kConfig) if
  // the file cannot be opened.
  ServerLog(const std::filesystem::path& file, core::LogLevel level);
  ~ServerLog();
  ServerLog(const ServerLog&) = delete;
  ServerLog& operator=(const ServerLog&) = delete;

  // fields: an object.
  void write(core::LogLevel level, const char* event, const nlohmann::ordered_json& fields);

 private:
  core::LogLevel level_;
  std::unique_ptr<spdlog::logger> logger_;
};

// "debug", "info", "warning", "error"; throws core::Error(kConfig).
core::LogLevel parse_log_level(const std::string& name);

}  // namespace lockstep::coordinator
