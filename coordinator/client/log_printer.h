#pragma once

#include <iosfwd>
#include <map>
#include <string>
#include <utility>

#include "lockstep/v1/run_service.pb.h"

namespace lockstep::coordinator {

// Shows log chunks as lines. Lines of different ranks never mix: what has no newline yet is kept
// until it has, or until it is longer than a chunk can be.
class LogPrinter {
 public:
  struct Style {
    bool name_ranks = true;  // "[rank 0] " before every line
    bool escape = false;     // for a terminal
  };

  LogPrinter(std::ostream& out, std::ostream& talk, Style style)
      : out_(out), talk_(talk), style_(style) {}

  void show(const lockstep::v1::LogChunk& chunk);
  // What is left without a newline.
  void finish();

 private:
  using Source = std::pair<int, int>;  // rank, stream

  void put(const Source& source, std::string_view line);

  std::ostream& out_;
  std::ostream& talk_;
  Style style_;
  int attempt_ = 0;  // of the last chunk
  std::map<Source, std::string> open_;
};

}  // namespace lockstep::coordinator
