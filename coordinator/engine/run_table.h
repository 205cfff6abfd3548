#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "coordinator/engine/engine.h"

namespace lockstep::coordinator {

// All runs as last committed, and those who want to hear of changes. Reads copy a pointer under a
// lock that nobody holds for longer than that.
class RunTable {
 public:
  // Before anything else; not announced.
  void load(RunPtr record);

  // As committed: what decisions start from.
  RunPtr committed(const std::string& id) const;  // nullptr: there is none
  std::vector<RunPtr> all_committed() const;      // by id

  // As shown: with the progress that the newest heartbeat told. By id, "runs/ID", the name of one run
  // (or of one that has not ended), or the unique beginning of an id.
  RunPtr find(const std::string& name) const;  // throws EngineError(NOT_FOUND)
  std::vector<RunPtr> list() const;

  // After a commit: the new record, then a notice for each event. In order of commits.
  void publish(const RunPtr& record, const std::vector<Event>& events);
  void erase(const std::string& id);
  void publish_progress(const std::string& id, const Progress& progress);

  std::int64_t subscribe(Listener listener);
  void unsubscribe(std::int64_t id);
  std::int64_t newest_sequence() const;
  void set_newest_sequence(std::int64_t sequence);
  std::int64_t wait_for_change(std::int64_t sequence, std::int64_t timeout_ns) const;

 private:
  struct Entry {
    RunPtr committed;
    RunPtr shown;
  };
  void tell(const Notice& notice);
  RunPtr find_by_name(const std::string& name) const;  // mutex_ is held

  mutable std::shared_mutex mutex_;
  std::map<std::string, Entry> entries_;

  std::mutex listener_mutex_;
  std::map<std::int64_t, Listener> listeners_;
  std::int64_t next_listener_ = 1;

  mutable std::mutex sequence_mutex_;
  mutable std::condition_variable sequence_changed_;
  std::int64_t newest_sequence_ = 0;
};

// "runs/ID" or "ID" without the prefix.
std::string bare_id(const std::string& name);

}  // namespace lockstep::coordinator
