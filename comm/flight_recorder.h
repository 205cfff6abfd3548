#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "comm/communicator.h"

namespace lockstep::comm {

struct FlightFileHeader;
struct FlightFileRecord;

// Notes a rank's last collectives in a small memory-mapped file (flight_format.h), which stays
// behind when the process is killed and is read by read_flight_log (flight_log.h).
//
// Noting costs two readings of the clock a collective and allocates nothing. One thread at a time:
// the one that uses the communicator.
class FlightRecorder {
 public:
  // Puts a new file in the place of `path`; the folder must exist. Its blocks are allocated here,
  // so that a full disk is an Error(kData) now and not a SIGBUS later.
  FlightRecorder(const std::string& path, int rank, int world_size, std::int64_t attempt);
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  // This rank has told its peers that it takes part in collective number `sequence` (> 0). bytes:
  // of its input (broadcast: of the data). The label is cut to kFlightLabelBytes.
  void entered(std::uint64_t sequence, Collective collective, std::uint64_t bytes,
               std::string_view label) noexcept;
  // Its output is complete. Ignored for a sequence that is not, or no longer, in the file.
  void completed(std::uint64_t sequence) noexcept;
  // It is alive and waits.
  void waiting() noexcept;

 private:
  FlightFileRecord& record_of(std::uint64_t sequence) const noexcept;

  FlightFileHeader* header_ = nullptr;  // the mapped file
};

// "OUTPUT/flight/rank-0003.bin"
std::string flight_file(const std::string& output, int rank);

}  // namespace lockstep::comm
