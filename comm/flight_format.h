#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace lockstep::comm {

// OUTPUT/flight/rank-0000.bin: a header, then `record_count` records, in the byte order of the
// machine. Collective number s is in record s % record_count. Times are unix time in nanoseconds.

constexpr std::array<char, 8> kFlightMagic{'L', 'S', 'F', 'L', 'I', 'G', 'H', 'T'};
constexpr std::uint32_t kFlightVersion = 1;
constexpr std::uint32_t kFlightRecords = 256;  // more than an exchange holds in flight
constexpr std::size_t kFlightLabelBytes = 80;
constexpr std::size_t kFlightHostBytes = 64;

struct FlightFileHeader {
  std::array<char, 8> magic;  // written last: a file without it was never finished
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint32_t record_bytes;
  std::uint32_t record_count;
  std::int32_t rank;
  std::int32_t world_size;
  std::int64_t attempt;
  std::int64_t pid;
  std::int64_t opened_ns;
  std::int64_t seen_ns;  // when this rank last entered, completed or waited in a collective
  char host[kFlightHostBytes];
  std::byte reserved[128];
};
static_assert(sizeof(FlightFileHeader) == 256);
static_assert(std::is_trivially_copyable_v<FlightFileHeader>);

enum class FlightState : std::uint32_t { kUnused = 0, kEntered = 1, kCompleted = 2 };

// The number stands at both ends. The second one is cleared before anything is written and set
// last, so a record that was cut short has two different ones.
struct FlightFileRecord {
  std::uint64_t sequence;
  std::uint64_t bytes;
  std::int64_t entered_ns;
  std::int64_t completed_ns;
  std::uint32_t state;       // FlightState
  std::uint32_t collective;  // Collective
  char label[kFlightLabelBytes];
  std::uint64_t sequence_again;
};
static_assert(sizeof(FlightFileRecord) == 128);
static_assert(std::is_trivially_copyable_v<FlightFileRecord>);

}  // namespace lockstep::comm
