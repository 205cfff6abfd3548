#include "coordinator/model/run_change.h"

#include "coordinator/model/run_json.h"
#include "coordinator/model/run_machine.h"

namespace lockstep::coordinator {
namespace {

bool starts_a_count(EventKind kind) {
  return kind == EventKind::kQueued || kind == EventKind::kResumed ||
         kind == EventKind::kAttemptCreated || kind == EventKind::kRanksReady ||
         kind == EventKind::kAttemptEnded || kind == EventKind::kTerminal;
}

}  // namespace

void RunChange::add(EventKind kind, const std::string& actor, nlohmann::json context) {
  context["v"] = 1;
  if (starts_a_count(kind) && !now_.steady.boot.empty()) context["at"] = now_.steady;
  Event event;
  event.run_sequence = record_.run.run_sequence + 1;
  event.run = run().id;
  if (event.run.empty()) {
    const auto& whole = kind == EventKind::kAdopted ? context.at("record") : context;
    event.run = whole.at("run").at("id").get<std::string>();
  }
  event.kind = kind;
  event.time_ns = now_.unix_ns;
  event.actor = actor;
  // What is applied now must be what a replay will read: the same bytes and numbers.
  event.context = nlohmann::json::parse(canonical_text(context));
  std::shared_ptr<const RunTexts> texts = record_.run.texts;
  apply(record_, event);
  record_.run.texts = std::move(texts);
  events_.push_back(std::move(event));
}

void RunChange::number(std::int64_t first) {
  for (Event& event : events_)
    event.sequence = first++;
  if (!events_.empty()) record_.run.event_sequence = events_.back().sequence;
}

}  // namespace lockstep::coordinator
