#include "coordinator/client/log_printer.h"

#include <fmt/format.h>

#include <ostream>

#include "coordinator/client/text.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kLongestLine = std::size_t{1} << 20;

std::string name_of(int rank) {
  return rank < 0 ? "[mpirun] " : fmt::format("[rank {}] ", rank);
}

}  // namespace

void LogPrinter::show(const lockstep::v1::LogChunk& chunk) {
  if (chunk.attempt() != 0 && chunk.attempt() != attempt_) {
    finish();
    if (attempt_ != 0) talk_ << fmt::format("lockstep: attempt {} begins\n", chunk.attempt());
    attempt_ = chunk.attempt();
  }
  const Source source{chunk.rank(), static_cast<int>(chunk.stream())};
  if (chunk.dropped_bytes() > 0) {
    talk_ << fmt::format("lockstep: {} bytes of {} were not kept here: {}\n", chunk.dropped_bytes(),
                         chunk.rank() < 0 ? "mpirun" : fmt::format("rank {}", chunk.rank()),
                         chunk.no_space() ? "the disk of the coordinator had no room for them"
                                          : "more than the quota of a run");
  }
  std::string& open = open_[source];
  open += chunk.data();
  std::size_t begin = 0;
  for (std::size_t end = open.find('\n'); end != std::string::npos; end = open.find('\n', begin)) {
    put(source, std::string_view(open).substr(begin, end - begin));
    begin = end + 1;
  }
  open.erase(0, begin);
  if (open.size() > kLongestLine) {
    put(source, open);
    open.clear();
  }
  out_.flush();
}

void LogPrinter::finish() {
  for (auto& [source, open] : open_) {
    if (!open.empty()) put(source, open);
    open.clear();
  }
  out_.flush();
}

void LogPrinter::put(const Source& source, std::string_view line) {
  if (style_.name_ranks) out_ << name_of(source.first);
  if (style_.escape) {
    out_ << escape_for_terminal(line) << "\n";
  } else {
    out_ << line << "\n";
  }
}

}  // namespace lockstep::coordinator
