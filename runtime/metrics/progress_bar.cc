#include "runtime/metrics/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace lockstep::runtime {

namespace {

constexpr int kBarWidth = 24;
constexpr double kSmoothing = 0.1;

}  // namespace

ProgressBar::ProgressBar(bool enabled, std::int64_t total)
    : enabled_(enabled), active_(enabled && isatty(STDERR_FILENO) == 1), total_(total) {}

void ProgressBar::show_by(std::function<void(const std::string&)> show) {
  show_ = std::move(show);
  active_ = enabled_;
}

void ProgressBar::draw(const std::string& line) const {
  if (show_) return show_(line);
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
}

ProgressBar::~ProgressBar() {
  clear();
}

std::string ProgressBar::clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(seconds);
  return whole >= 3600 ? fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
                       : fmt::format("{}:{:02}", whole / 60, whole % 60);
}

void ProgressBar::update(std::int64_t done, double seconds, const std::string& text) {
  if (!active_) return;
  smoothed_seconds_ = smoothed_seconds_ == 0.0
                          ? seconds
                          : smoothed_seconds_ + kSmoothing * (seconds - smoothed_seconds_);
  const std::int64_t filled =
      total_ == 0 ? 0 : std::min<std::int64_t>(kBarWidth, kBarWidth * done / total_);
  std::string bar(static_cast<std::size_t>(filled), '#');
  bar.resize(kBarWidth, '.');
  const double left = smoothed_seconds_ * static_cast<double>(total_ - done);
  draw(fmt::format("[{}] {}/{} {} ETA {}", bar, done, total_, text, clock_text(left)));
  drawn_ = true;
}

void ProgressBar::clear() {
  if (!drawn_) return;
  draw("");
  drawn_ = false;
}

}  // namespace lockstep::runtime
