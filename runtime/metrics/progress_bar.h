#pragma once

#include <cstdint>
#include <string>

namespace lockstep::runtime {

// Progress of a run on stderr: one line that is redrawn on a terminal, nothing otherwise (the
// caller then logs plain lines).
class ProgressBar {
 public:
  // enabled: this rank may draw; drawn only if stderr is a terminal. total: steps of the whole run.
  ProgressBar(bool enabled, std::int64_t total);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  bool active() const { return active_; }

  // Redraws with this text after `done` of `total` steps, `seconds` being the wall time of the last
  // one.
  void update(std::int64_t done, double seconds, const std::string& text);
  void clear();  // takes the line away, before something else is printed

  // "1:02:03" of a number of seconds.
  static std::string clock_text(double seconds);

 private:
  bool active_;
  std::int64_t total_;
  double smoothed_seconds_ = 0.0;  // of a step, exponential mean
  bool drawn_ = false;
};

}  // namespace lockstep::runtime
