#include "coordinator/model/run_change.h"

#include "coordinator/model/run_json.h"
#include "coordinator/model/run_machine.h"

namespace lockstep::coordinator {

void RunChange::add(EventKind kind, const std::string& actor, nlohmann::json context) {
  context["v"] = 1;
  Event event;
  event.run_sequence = record_.run.run_sequence + 1;
  event.run = record_.run.id.empty() ? context.at("run").at("id").get<std::string>() : run().id;
  event.kind = kind;
  event.time_ns = now_ns_;
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
