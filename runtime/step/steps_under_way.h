#pragma once

namespace lockstep::runtime {

// Steps that may be under way on a device before the host has replayed their decisions: the one
// that it replays, and the next. As many mirrors has what steps leave for it
// (ops::Results).
inline constexpr int kStepsUnderWay = 2;

}  // namespace lockstep::runtime
