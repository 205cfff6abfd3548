// A flight file, and the diagnosis of it beside another rank's.
#include <vector>

#include "comm/flight_log.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;

// A rank that waits in its second collective.
comm::FlightLog other_rank(const comm::FlightLog& log) {
  comm::FlightLog other;
  other.rank = log.rank == 0 ? 1 : 0;
  other.world_size = log.world_size;
  other.entries.push_back({1, comm::Collective::kBarrier, 0, "start", true, 1000, 2000});
  other.entries.push_back({2, comm::Collective::kReduceScatter, 64, "head", false, 3000, 0});
  other.seen_ns = 4000;
  return other;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile memory;
  memory.fill(fuzz::text_of(data, size));
  fuzz::may_refuse(core::ErrorKind::kData, [&] {
    const comm::FlightLog log = comm::read_flight_log(memory.path());
    for (const comm::FlightEntry& entry : log.entries)
      fuzz::require(log.find(entry.sequence) != nullptr, "an entry that is not found");
    const std::vector<comm::FlightLog> logs = {log, other_rank(log)};
    for (const std::string& finding : comm::diagnose(logs))
      fuzz::require(!finding.empty(), "an empty finding");
  });
  return 0;
}
