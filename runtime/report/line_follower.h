#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::runtime {

enum class Followed { kNothing, kAppended, kRestarted };

// Reads the whole lines of a file that grows, such as metrics.jsonl; a resume cuts it back and writes
// on, which is found by what stands before the place reached.
class LineFollower {
 public:
  explicit LineFollower(std::filesystem::path path) : path_(std::move(path)) {}

  const std::filesystem::path& path() const { return path_; }
  // Passes the lines that are new since the last call to `visit`, without their end. Before the first
  // line of a file that was cut or replaced it calls `restart`, and begins at its start again. A file
  // that is not there counts as empty; a last line without its end waits for the rest. Throws
  // Error(kData) when the file cannot be read.
  Followed follow(const std::function<void()>& restart,
                  const std::function<void(std::string_view line)>& visit);
  std::int64_t lines() const { return lines_; }

 private:
  std::filesystem::path path_;
  std::uint64_t offset_ = 0;  // of the first byte after the last whole line
  std::int64_t lines_ = 0;
  std::string tail_;  // the bytes before it, kTailBytes at most
};

}  // namespace lockstep::runtime
