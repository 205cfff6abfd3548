#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>

namespace spdlog {
class logger;
}

namespace lockstep::core {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Levelled lines "12:03:04.123 [rank 2/4][area] message" on stderr and, once opened, in this rank's
// log file. On stderr only rank 0 speaks below kWarning; the file takes everything. Thread-safe.
// Owned by main (or by a test) and passed down by reference.
class Logger {
 public:
  // rank/world_size for the prefix; console_level: least level shown on stderr by rank 0.
  explicit Logger(int rank = 0, int world_size = 1, LogLevel console_level = LogLevel::kInfo);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  // Also appends to `path` from now on, flushed line by line. Throws Error(kConfig) if it cannot be
  // opened.
  void open_file(const std::string& path);

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  void write(LogLevel level, const char* area, const std::string& message);

  template <typename... Args>
  void debug(const char* area, fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kDebug, area, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void info(const char* area, fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kInfo, area, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void warning(const char* area, fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kWarning, area, fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void error(const char* area, fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kError, area, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  int rank_;
  int world_size_;
  std::unique_ptr<spdlog::logger> console_;
  std::unique_ptr<spdlog::logger> file_;
};

}  // namespace lockstep::core
