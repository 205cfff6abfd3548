#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/model/run.h"

// What people may ask of a run in which state.
//
//             cancel     pause      resume     checkpoint  update   retry
//   WAITING   ends it    holds it   releases   -           yes      -
//   QUEUED    ends it    holds it   holds      -           yes      -
//   STARTING  stops      intent     holds (1)  -           yes      -
//   RUNNING   stops      intent     holds (1)  yes (1)     yes      -
//   STOPPING  intent     (2)        -          -           yes      -
//   BACKOFF   ends it    holds it   holds      -           yes      -
//   PAUSED    ends it    holds      queues     -           yes      -
//   ended     holds      -          -          -           -        yes
// "holds" in a column: what is asked for holds already, so it is OK and changes nothing; this is
// also so for a cancel or pause that was asked for before, a pause of a held run and a resume of
// one that waits for others.
// (1) not with a stop intent.  (2) only while its intent is to free the slots for others.
namespace lockstep::coordinator {

enum class Verb : std::uint8_t { kCancel, kPause, kResume, kCheckpoint, kUpdate, kRetry };
const char* to_string(Verb verb);  // "cancel", ...

enum class VerbAnswer : std::uint8_t { kAllowed, kHolds, kRefused };

VerbAnswer check_verb(const Run& run, Verb verb);

// A cancel that asks for force is more than one that did not.
VerbAnswer check_cancel(const Run& run, bool force);

// The verbs that are not refused, in the order of the enum.
std::vector<Verb> allowed_verbs(const Run& run);

// "cannot pause run X: it is FAILED; allowed are: retry".
std::string refusal(const Run& run, Verb verb);

}  // namespace lockstep::coordinator
