#include "coordinator/engine/run_table.h"

#include <chrono>
#include <utility>

#include <fmt/format.h>

namespace lockstep::coordinator {

std::string bare_id(const std::string& name) {
  constexpr std::string_view kPrefix = "runs/";
  return name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
}

void RunTable::load(RunPtr record) {
  const std::unique_lock lock(mutex_);
  const std::string& id = record->run.id;
  entries_[id] = {record, record};
}

RunPtr RunTable::committed(const std::string& id) const {
  const std::shared_lock lock(mutex_);
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second.committed;
}

std::vector<RunPtr> RunTable::all_committed() const {
  const std::shared_lock lock(mutex_);
  std::vector<RunPtr> all;
  all.reserve(entries_.size());
  for (const auto& [id, entry] : entries_)
    all.push_back(entry.committed);
  return all;
}

std::vector<RunPtr> RunTable::list() const {
  const std::shared_lock lock(mutex_);
  std::vector<RunPtr> all;
  all.reserve(entries_.size());
  for (const auto& [id, entry] : entries_)
    all.push_back(entry.shown);
  return all;
}

// Of several runs of a name the one that has not ended is meant.
RunPtr RunTable::find_by_name(const std::string& name) const {
  std::vector<RunPtr> all;
  for (const auto& [id, entry] : entries_) {
    if (!name.empty() && entry.shown->run.display_name == name) all.push_back(entry.shown);
  }
  if (all.size() <= 1) return all.empty() ? nullptr : all.front();
  std::vector<RunPtr> live;
  for (const RunPtr& record : all) {
    if (!is_terminal(record->run.state)) live.push_back(record);
  }
  if (live.size() == 1) return live.front();
  throw EngineError(ErrorCode::kNotFound, "AMBIGUOUS_RUN",
                    fmt::format("{} runs have the name '{}': {}, {}, ...; give an id", all.size(),
                                name, all.back()->run.id, all[all.size() - 2]->run.id));
}

RunPtr RunTable::find(const std::string& name) const {
  const std::string id = bare_id(name);
  const std::shared_lock lock(mutex_);
  if (const auto exact = entries_.find(id); exact != entries_.end()) return exact->second.shown;
  if (const RunPtr named = find_by_name(name)) return named;
  const auto found = id.empty() ? entries_.end() : entries_.lower_bound(id);
  if (found == entries_.end() || !found->first.starts_with(id)) {
    throw EngineError(ErrorCode::kNotFound, "RUN_NOT_FOUND",
                      fmt::format("there is no run '{}'", name));
  }
  const auto next = std::next(found);
  if (next != entries_.end() && next->first.starts_with(id)) {
    throw EngineError(ErrorCode::kNotFound, "AMBIGUOUS_RUN",
                      fmt::format("several runs begin with '{}': {}, {}, ...; give more of the id",
                                  id, found->first, next->first));
  }
  return found->second.shown;
}

void RunTable::publish(const RunPtr& record, const std::vector<Event>& events) {
  {
    const std::unique_lock lock(mutex_);
    Entry& entry = entries_[record->run.id];
    // Progress that is newer than the record stays on show.
    const bool fresher = entry.shown && entry.shown->run.progress.heartbeat_time_ns >
                                            record->run.progress.heartbeat_time_ns;
    const bool same_attempt =
        entry.shown && entry.shown->run.current_attempt == record->run.current_attempt;
    entry.committed = record;
    if (fresher && same_attempt) {
      auto shown = std::make_shared<RunRecord>(*record);
      shown->run.progress = entry.shown->run.progress;
      entry.shown = std::move(shown);
    } else {
      entry.shown = record;
    }
  }
  for (const Event& event : events)
    tell({&event, record});
  if (!events.empty()) set_newest_sequence(events.back().sequence);
}

void RunTable::erase(const std::string& id) {
  const std::unique_lock lock(mutex_);
  entries_.erase(id);
}

void RunTable::publish_progress(const std::string& id, const Progress& progress) {
  RunPtr shown;
  {
    const std::unique_lock lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    auto record = std::make_shared<RunRecord>(*found->second.committed);
    record->run.progress = progress;
    shown = record;
    found->second.shown = std::move(record);
  }
  tell({nullptr, shown});
}

void RunTable::tell(const Notice& notice) {
  const std::lock_guard lock(listener_mutex_);
  for (const auto& [id, listener] : listeners_)
    listener(notice);
}

std::int64_t RunTable::subscribe(Listener listener) {
  const std::lock_guard lock(listener_mutex_);
  listeners_[next_listener_] = std::move(listener);
  return next_listener_++;
}

void RunTable::unsubscribe(std::int64_t id) {
  const std::lock_guard lock(listener_mutex_);
  listeners_.erase(id);
}

std::int64_t RunTable::newest_sequence() const {
  const std::lock_guard lock(sequence_mutex_);
  return newest_sequence_;
}

void RunTable::set_newest_sequence(std::int64_t sequence) {
  {
    const std::lock_guard lock(sequence_mutex_);
    newest_sequence_ = sequence;
  }
  sequence_changed_.notify_all();
}

std::int64_t RunTable::wait_for_change(std::int64_t sequence, std::int64_t timeout_ns) const {
  std::unique_lock lock(sequence_mutex_);
  sequence_changed_.wait_for(lock, std::chrono::nanoseconds(timeout_ns),
                             [&] { return newest_sequence_ > sequence; });
  return newest_sequence_;
}

}  // namespace lockstep::coordinator
