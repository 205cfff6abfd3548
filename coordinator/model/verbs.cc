#include "coordinator/model/verbs.h"

#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace lockstep::coordinator {
namespace {

constexpr std::array kVerbs = {Verb::kCancel,     Verb::kPause,  Verb::kResume,
                               Verb::kCheckpoint, Verb::kUpdate, Verb::kRetry};

VerbAnswer check_pause(const Run& run) {
  switch (run.state) {
    case RunState::kWaiting:
      return run.hold ? VerbAnswer::kHolds : VerbAnswer::kAllowed;
    case RunState::kQueued:
    case RunState::kBackoff:
      return VerbAnswer::kAllowed;
    case RunState::kPaused:
      return VerbAnswer::kHolds;
    case RunState::kStarting:
    case RunState::kRunning:
    case RunState::kStopping:
      break;
    default:
      return VerbAnswer::kRefused;
  }
  if (run.stop_intent == StopIntent::kPause) return VerbAnswer::kHolds;
  if (run.stop_intent > StopIntent::kPause) return VerbAnswer::kRefused;
  if (run.state == RunState::kStopping && run.stop_intent == StopIntent::kNone) {
    return VerbAnswer::kRefused;
  }
  return VerbAnswer::kAllowed;
}

VerbAnswer check_resume(const Run& run) {
  switch (run.state) {
    case RunState::kPaused:
      return VerbAnswer::kAllowed;
    case RunState::kWaiting:
      return run.hold ? VerbAnswer::kAllowed : VerbAnswer::kHolds;
    case RunState::kQueued:
    case RunState::kBackoff:
      return VerbAnswer::kHolds;
    case RunState::kStarting:
    case RunState::kRunning:
      return run.stop_intent == StopIntent::kNone ? VerbAnswer::kHolds : VerbAnswer::kRefused;
    default:
      return VerbAnswer::kRefused;
  }
}

VerbAnswer check_checkpoint(const Run& run) {
  if (run.state != RunState::kRunning || run.stop_intent != StopIntent::kNone) {
    return VerbAnswer::kRefused;
  }
  return run.checkpoint_wanted ? VerbAnswer::kHolds : VerbAnswer::kAllowed;
}

}  // namespace

const char* to_string(Verb verb) {
  switch (verb) {
    case Verb::kCancel:
      return "cancel";
    case Verb::kPause:
      return "pause";
    case Verb::kResume:
      return "resume";
    case Verb::kCheckpoint:
      return "checkpoint";
    case Verb::kUpdate:
      return "update";
    case Verb::kRetry:
      return "retry";
  }
  return "unknown";
}

VerbAnswer check_cancel(const Run& run, bool force) {
  if (is_terminal(run.state)) return VerbAnswer::kHolds;
  const bool asked = run.stop_intent == StopIntent::kCancel;
  return asked && (run.stop_order.force || !force) ? VerbAnswer::kHolds : VerbAnswer::kAllowed;
}

VerbAnswer check_verb(const Run& run, Verb verb) {
  switch (verb) {
    case Verb::kCancel:
      return check_cancel(run, false);
    case Verb::kPause:
      return check_pause(run);
    case Verb::kResume:
      return check_resume(run);
    case Verb::kCheckpoint:
      return check_checkpoint(run);
    case Verb::kUpdate:
      return is_terminal(run.state) ? VerbAnswer::kRefused : VerbAnswer::kAllowed;
    case Verb::kRetry:
      return is_terminal(run.state) ? VerbAnswer::kAllowed : VerbAnswer::kRefused;
  }
  return VerbAnswer::kRefused;
}

std::vector<Verb> allowed_verbs(const Run& run) {
  std::vector<Verb> allowed;
  for (const Verb verb : kVerbs) {
    if (check_verb(run, verb) != VerbAnswer::kRefused) allowed.push_back(verb);
  }
  return allowed;
}

std::string refusal(const Run& run, Verb verb) {
  std::vector<std::string> names;
  for (const Verb allowed : allowed_verbs(run))
    names.emplace_back(to_string(allowed));
  std::string state = to_string(run.state);
  if (run.stop_intent != StopIntent::kNone) {
    state += fmt::format(" with a request to stop ({})", to_string(run.stop_intent));
  }
  return fmt::format("cannot {} run {}: it is {}; allowed are: {}", to_string(verb), run.id, state,
                     fmt::join(names, ", "));
}

}  // namespace lockstep::coordinator
