#pragma once

#include <cstdint>

namespace lockstep::runtime {

// How far a rank's part of the checkpoint in flight is; travels in the step report.
enum class SaveProgress : std::int32_t { kNone, kWriting, kWritten, kFailed };

}  // namespace lockstep::runtime
