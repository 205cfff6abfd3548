#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace lockstep::runtime {

// Progress of a run: one line that is redrawn on stderr if that is a terminal, or by somebody else;
// nothing otherwise (the caller then logs plain lines).
class ProgressBar {
 public:
  // enabled: this rank may draw; drawn only if stderr is a terminal. total: steps of the whole run.
  ProgressBar(bool enabled, std::int64_t total);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Not on stderr, but there; empty: the line is taken away.
  void show_by(std::function<void(const std::string& line)> show);

  bool active() const { return active_; }

  // Redraws with this text after `done` of `total` steps, `seconds` being the wall time of the last
  // one.
  void update(std::int64_t done, double seconds, const std::string& text);
  void clear();  // takes the line away, before something else is printed

  // "1:02:03" of a number of seconds.
  static std::string clock_text(double seconds);

 private:
  void draw(const std::string& line) const;

  bool enabled_;
  bool active_;
  std::function<void(const std::string&)> show_;
  std::int64_t total_;
  double smoothed_seconds_ = 0.0;  // of a step, exponential mean
  bool drawn_ = false;
};

}  // namespace lockstep::runtime
