#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace lockstep::launcher {

// The progress bar of rank 0 on this process's stderr, and what is printed around it. Thread-safe.
class ProgressLine {
 public:
  ProgressLine();
  bool on_terminal() const { return on_terminal_; }
  void show(const std::string& text);  // empty: none
  // Writes to a descriptor without tearing the line. An error is nobody's concern: a terminal that
  // is gone, a pipe that nobody reads, or a full disk must not end a run.
  void print(int descriptor, const char* data, std::size_t size);

 private:
  void draw() const;

  const bool on_terminal_;
  std::mutex mutex_;
  std::string text_;
  bool at_line_start_ = true;  // of what was printed
};

// Copies what comes out of a pipe to a descriptor of this process until the pipe ends.
class OutputRelay {
 public:
  // Throws Error(kInternal) if there can be no pipe.
  OutputRelay(ProgressLine& line, int to);
  ~OutputRelay();
  OutputRelay(const OutputRelay&) = delete;
  OutputRelay& operator=(const OutputRelay&) = delete;

  int write_end() const { return write_end_; }
  // Once the writer has its copy of the write end.
  void start();
  // Copies what is left, once the writer has ended.
  void drain();
  std::uint64_t bytes() const { return bytes_; }

 private:
  void run();

  ProgressLine& line_;
  const int to_;
  int read_end_ = -1;
  int write_end_ = -1;
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<bool> writer_ended_{false};
  std::thread thread_;
};

}  // namespace lockstep::launcher
