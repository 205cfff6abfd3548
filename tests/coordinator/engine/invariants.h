#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "launcher/coordinator/engine/engine.h"
#include "launcher/coordinator/model/run_json.h"
#include "launcher/coordinator/store/store.h"

// What must hold after whatever has happened:
//   I1 row == replay of its events        I4 the rows of ended runs never change
//   I2 no slot is leased twice            I5 every acknowledged request id belongs to one run
//   I3 no process of an ended attempt     I6 restart_count == number of retry events
namespace lockstep::launcher::coordinator::testing {

class Invariants {
 public:
  // A mutation with this id was answered with this run.
  void acknowledged(const std::string& caller, const std::string& request_id,
                    const std::string& run) {
    const auto [known, is_new] = acknowledged_.try_emplace({caller, request_id}, run);
    EXPECT_EQ(known->second, run) << "I5: request " << request_id;
  }

  // `living`: the attempts of which processes were found.
  void check(const Store& store, const Engine& engine, const std::vector<AttemptRef>& living) {
    const StoreReport report = store.check();
    EXPECT_EQ(report.problems, std::vector<std::string>()) << "I1";
    const std::vector<RunPtr> runs = engine.list();
    check_slots(runs);
    check_processes(engine, living);
    for (const RunPtr& record : runs) {
      check_ended(*record);
      check_restarts(store, record->run);
    }
    for (const auto& [request, run] : acknowledged_) {
      const auto served = store.find_request(request.first, request.second);
      EXPECT_TRUE(served.has_value()) << "I5: request " << request.second;
      if (served) {
        EXPECT_EQ(served->resource, run) << "I5: request " << request.second;
      }
    }
  }

 private:
  static void check_slots(const std::vector<RunPtr>& runs) {
    std::set<std::pair<std::string, int>> leased;
    for (const RunPtr& record : runs) {
      for (const Attempt& attempt : record->attempts) {
        if (!attempt.slots_leased) continue;
        for (const Placement& placement : attempt.placements) {
          for (const int slot : placement.slots) {
            EXPECT_TRUE(leased.emplace(placement.host, slot).second)
                << "I2: slot " << slot << " of " << placement.host;
          }
        }
      }
    }
  }

  static void check_processes(const Engine& engine, const std::vector<AttemptRef>& living) {
    for (const AttemptRef& ref : living) {
      const RunPtr record = engine.find(ref.run);
      const bool current = has_attempt(record->run.state) && record->current_ref() == ref &&
                           record->current()->state != AttemptState::kEnded;
      EXPECT_TRUE(current) << "I3: attempt " << ref.number << " of " << ref.run;
    }
  }

  void check_ended(const RunRecord& record) {
    const Run& run = record.run;
    if (!is_terminal(run.state)) {
      EXPECT_FALSE(ended_.contains(run.id)) << "I4: " << run.id << " came back to life";
      return;
    }
    const Ended now = {run.state, run.end_time_ns, run.restart_count,
                       canonical_text(run.result ? nlohmann::json(*run.result) : nullptr)};
    const auto [known, is_new] = ended_.try_emplace(run.id, now);
    EXPECT_EQ(known->second, now) << "I4: " << run.id;
  }

  static void check_restarts(const Store& store, const Run& run) {
    int retries = 0;
    for (const Event& event : store.events(run.id, 0, 1'000'000)) {
      if (event.kind == EventKind::kRetryScheduled) ++retries;
    }
    EXPECT_EQ(run.restart_count, retries) << "I6: " << run.id;
  }

  using Ended = std::tuple<RunState, std::int64_t, int, std::string>;
  std::map<std::string, Ended> ended_;
  std::map<std::pair<std::string, std::string>, std::string> acknowledged_;
};

}  // namespace lockstep::launcher::coordinator::testing
