#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "coordinator/model/run_json.h"
#include "coordinator/store/store.h"

// What must hold after whatever has happened, as far as the store tells it:
//   I1 row == replay of its events        I4 the rows of ended runs never change
//   I2 no slot is leased twice            I5 every acknowledged request id belongs to one run
//   I3 no process of an ended attempt     I6 restart_count == number of retry events
namespace lockstep::coordinator::testing {

// Kept over a whole scenario, restarts included: what it remembers must still be so at the end.
class Invariants {
 public:
  // A mutation with this id was answered with this run.
  void acknowledged(const std::string& caller, const std::string& request_id,
                    const std::string& run) {
    const auto [known, is_new] = acknowledged_.try_emplace({caller, request_id}, run);
    EXPECT_EQ(known->second, run) << "I5: request " << request_id;
  }

  // A row that was seen by anybody; of a run that has ended it is remembered. From any thread.
  void saw(const RunRecord& record) {
    const std::lock_guard lock(mutex_);
    const Run& run = record.run;
    if (deleted_.contains(run.id)) return;
    if (!is_terminal(run.state)) {
      EXPECT_FALSE(ended_.contains(run.id)) << "I4: " << run.id << " came back to life";
      return;
    }
    const Ended now = {run.state, run.end_time_ns, run.restart_count,
                       canonical_text(run.result ? nlohmann::json(*run.result) : nullptr)};
    const auto [known, is_new] = ended_.try_emplace(run.id, now);
    EXPECT_EQ(known->second, now) << "I4: " << run.id;
  }

  // The test took the store away, and what was acknowledged with it.
  void store_lost() {
    const std::lock_guard lock(mutex_);
    acknowledged_.clear();
    ended_.clear();
  }

  // The run was deleted, or is about to be.
  void deleted(const std::string& run) {
    const std::lock_guard lock(mutex_);
    ended_.erase(run);
    deleted_.insert(run);
    std::erase_if(acknowledged_, [&](const auto& entry) { return entry.second == run; });
  }

  // The test damaged the part of the store that this run has.
  void damaged(const std::string& run) { damaged_.insert(run); }

  // `living`: the attempts of which processes were found.
  void check(Store& store, const std::vector<AttemptRef>& living) {
    for (const std::string& problem : store.check().problems)
      EXPECT_TRUE(is_of_damaged(problem)) << "I1: " << problem;
    std::map<std::string, RunRecord> rows;
    for (RunRecord& record : store.load().runs) {
      saw(record);
      rows[record.run.id] = std::move(record);
    }
    for (const auto& [id, record] : ended_) {
      if (!damaged_.contains(id)) {
        EXPECT_TRUE(rows.contains(id)) << "I4: " << id << " is gone";
      }
    }
    check_history(store, rows);
    check_processes(rows, living);
    for (const auto& [request, run] : acknowledged_) {
      const auto served = store.find_request(request.first, request.second);
      EXPECT_TRUE(served.has_value()) << "I5: request " << request.second;
      if (served) {
        EXPECT_EQ(served->resource, run) << "I5: request " << request.second;
      }
    }
  }

 private:
  using Slot = std::pair<std::string, int>;
  using Leases = std::map<Slot, std::pair<std::string, int>>;  // to an attempt: run and number

  bool is_of_damaged(const std::string& problem) const {
    for (const std::string& run : damaged_) {
      if (problem.find(run) != std::string::npos) return true;
    }
    return false;
  }

  // Goes through everything that ever happened, in its order.
  void check_history(const Store& store, const std::map<std::string, RunRecord>& rows) const {
    Leases leases;
    std::map<std::string, int> retries;
    for (const Event& event : store.events("", 0, std::numeric_limits<int>::max())) {
      if (damaged_.contains(event.run)) continue;
      if (event.kind == EventKind::kAttemptCreated) {
        lease(leases, event.run, event.context.at("number").get<int>(),
              event.context.at("placements").get<std::vector<Placement>>());
      }
      if (event.kind == EventKind::kSlotsReleased) {
        const std::pair of{event.run, event.context.at("number").get<int>()};
        std::erase_if(leases, [&](const auto& lease) { return lease.second == of; });
      }
      if (event.kind == EventKind::kRetryScheduled) ++retries[event.run];
      if (event.kind == EventKind::kAdopted) {
        const auto record = event.context.at("record").get<RunRecord>();
        std::erase_if(leases, [&](const auto& lease) { return lease.second.first == event.run; });
        for (const Attempt& attempt : record.attempts) {
          if (attempt.slots_leased) lease(leases, event.run, attempt.number, attempt.placements);
        }
        retries[event.run] = record.run.restart_count;
      }
    }
    EXPECT_EQ(leases, leases_of(rows)) << "I2: the rows lease other slots than their events do";
    for (const auto& [id, record] : rows)
      EXPECT_EQ(record.run.restart_count, retries[id]) << "I6: " << id;
  }

  static void lease(Leases& leases, const std::string& run, int number,
                    const std::vector<Placement>& placements) {
    for (const Placement& placement : placements) {
      for (const int slot : placement.slots) {
        const auto [taken, is_new] =
            leases.try_emplace(Slot{placement.host, slot}, std::pair{run, number});
        EXPECT_TRUE(is_new) << "I2: slot " << slot << " of " << placement.host << " is leased to "
                            << run << " while " << taken->second.first << " has it";
      }
    }
  }

  static Leases leases_of(const std::map<std::string, RunRecord>& rows) {
    Leases leases;
    for (const auto& [id, record] : rows) {
      for (const Attempt& attempt : record.attempts) {
        if (!attempt.slots_leased) continue;
        for (const Placement& placement : attempt.placements) {
          for (const int slot : placement.slots)
            leases[Slot{placement.host, slot}] = {id, attempt.number};
        }
      }
    }
    return leases;
  }

  void check_processes(const std::map<std::string, RunRecord>& rows,
                       const std::vector<AttemptRef>& living) const {
    for (const AttemptRef& ref : living) {
      if (damaged_.contains(ref.run)) continue;
      const auto found = rows.find(ref.run);
      const bool current = found != rows.end() && has_attempt(found->second.run.state) &&
                           found->second.current_ref() == ref &&
                           found->second.current()->state != AttemptState::kEnded;
      EXPECT_TRUE(current) << "I3: attempt " << ref.number << " of " << ref.run << " has processes";
    }
  }

  using Ended = std::tuple<RunState, std::int64_t, int, std::string>;
  std::mutex mutex_;
  std::map<std::string, Ended> ended_;
  std::map<std::pair<std::string, std::string>, std::string> acknowledged_;
  std::set<std::string> damaged_;
  std::set<std::string> deleted_;
};

}  // namespace lockstep::coordinator::testing
