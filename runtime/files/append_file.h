#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace lockstep::runtime {

// A text file that only grows, line by line: metrics.jsonl and ledger.jsonl. Errors are
// Error(kData) naming the file.
class AppendFile {
 public:
  AppendFile() = default;
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Opens for appending after cutting the file to `keep_bytes` (0: a new, empty file); closes what
  // was open before.
  void open(const std::string& path, std::uint64_t keep_bytes);
  bool is_open() const { return file_ != nullptr; }

  void write(const std::string& text);  // reaches the kernel before it returns
  std::uint64_t sync();                 // flush + fsync; the length of the file in bytes

 private:
  [[noreturn]] void fail(const char* what) const;

  std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace lockstep::runtime
