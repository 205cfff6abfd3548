#pragma once

#include <cstdint>
#include <string>

namespace lockstep::launcher {

// How one rank of one attempt ended: OUTPUT/exit/rank-0000.json (version 1). A rank that was killed
// leaves none.
struct ExitRecord {
  int rank = 0;
  int world_size = 1;
  std::int64_t attempt = 1;
  int exit_code = 0;
  std::string reason = "done";  // or the words of core::describe
  std::string message;          // of the error; empty when done
  std::int64_t step = 0;        // attempts of steps done
};

// Writes the record and forces it to disk. Never throws: a failure here must not hide the reason of
// the end; returns whether it worked.
bool write_exit_record(const std::string& output, const ExitRecord& record) noexcept;

}  // namespace lockstep::launcher
