#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/model/event.h"
#include "coordinator/model/run.h"

namespace lockstep::coordinator {

// A change of one run being decided: its events so far and the record after them, so that what is
// decided next sees what was decided before. Nothing outside changes; the engine commits it whole.
class RunChange {
 public:
  // `record` is the one to change; empty (no id) for a new run.
  RunChange(RunRecord record, Moment now) : record_(std::move(record)), now_(std::move(now)) {}

  // Throws as apply() does; nothing is added then. "v" is added to the context, and "at", the moment
  // on the steady clock, where time is counted from the event.
  void add(EventKind kind, const std::string& actor,
           nlohmann::json context = nlohmann::json::object());

  bool empty() const { return events_.empty(); }
  std::int64_t now_ns() const { return now_.unix_ns; }
  const BootTime& boot_time() const { return now_.steady; }
  const RunRecord& record() const { return record_; }
  const Run& run() const { return record_.run; }
  const std::vector<Event>& events() const { return events_; }

  // Gives the events their place in the server's sequence: first, first + 1, ...
  void number(std::int64_t first);
  // For a record whose texts are known: they are no part of any event.
  void set_texts(std::shared_ptr<const RunTexts> texts) { record_.run.texts = std::move(texts); }

 private:
  RunRecord record_;
  Moment now_;
  std::vector<Event> events_;
};

}  // namespace lockstep::coordinator
