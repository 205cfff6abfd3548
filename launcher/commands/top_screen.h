#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/v1/cluster_service.pb.h"
#include "lockstep/v1/run.pb.h"

namespace lockstep::launcher {

// What `lockstep top` shows at one moment.
struct TopView {
  std::vector<lockstep::v1::Run> runs{};  // that have not ended
  std::vector<lockstep::v1::Host> hosts{};
  std::int64_t now_ns = 0;
};

// What runs first, then the line in which the others stand: queued ones by their queue time less an
// hour for each point of priority, as the coordinator has it.
void put_in_line(std::vector<lockstep::v1::Run>& runs);

// "[######----]", with its part filled; a part below 0 or above 1 is taken as that.
std::string progress_bar(double part, int width);

// One line of totals, a table of hosts, a table of runs with progress bars. width: of the terminal;
// lines: at most so many, the last of which then says how many runs are left out; 0: all.
void print_top(std::ostream& out, const TopView& view, std::optional<int> width, int lines);

}  // namespace lockstep::launcher
