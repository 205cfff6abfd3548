#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace lockstep::comm {

// One collective of one rank, as its flight recorder noted it. Times: unix, in nanoseconds.
struct FlightEntry {
  std::uint64_t sequence = 0;  // number of the collective, from 1, the same on all ranks
  Collective collective = Collective::kBarrier;
  std::uint64_t bytes = 0;
  std::string label;  // printable ASCII
  bool completed = false;
  std::int64_t entered_ns = 0;
  std::int64_t completed_ns = 0;  // 0 while pending

  std::string name() const;  // "reduce_scatter #812 (block.7)"
};

// What one rank's file says.
struct FlightLog {
  int rank = 0;
  int world_size = 1;
  std::int64_t attempt = 1;
  std::int64_t pid = 0;
  std::string host;
  std::int64_t opened_ns = 0;
  std::int64_t seen_ns = 0;  // when it last entered, completed or waited in a collective
  int torn = 0;              // records that were being written when the file was read, or damaged
  std::vector<FlightEntry> entries;  // by sequence, ascending

  std::uint64_t last_entered() const;            // 0: nothing
  const FlightEntry* last_completed() const;     // null: nothing
  const FlightEntry* first_pending() const;      // the one it waits in; null: nothing
  const FlightEntry* find(std::uint64_t) const;  // by sequence; null: not, or no longer, known
};

// Reads a file that a FlightRecorder wrote, also one whose process was killed or still runs. Throws
// Error(kData) naming the file and what is wrong with it: not there, cut, foreign, or of a newer
// version.
FlightLog read_flight_log(const std::string& path);

// Who holds up whom, one sentence a finding; empty when all ranks have completed the same
// collectives. logs: of different ranks of one attempt, any order, not necessarily all.
//   "rank 1 has not entered reduce_scatter #168 (head); it last completed all_gather #163
//    (step_report); ranks 0, 2 wait in it since 3.0 s"
//   "rank 1 entered all_gather #9 (x) where ranks 0, 2 entered reduce_scatter #9 (head)"
// A wait lasts from entering until the rank was last seen, so it needs no clock of today.
std::vector<std::string> diagnose(std::span<const FlightLog> logs);

}  // namespace lockstep::comm
