#include "coordinator/schedule/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "coordinator/schedule/free_slots.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kMostEstimates = 32;  // estimates further back would be guesses on guesses

std::string slots_text(int count) {
  return fmt::format("{} slot{}", count, count == 1 ? "" : "s");
}

std::string holders_text(const std::vector<const Lease*>& holders) {
  constexpr std::size_t kMostNames = 3;
  std::string text;
  for (std::size_t i = 0; i < std::min(holders.size(), kMostNames); ++i) {
    text += fmt::format("{}{}{}", i == 0 ? "" : ", ", holders[i]->run,
                        holders[i]->end_ns ? "" : " (no time limit)");
  }
  if (holders.size() > kMostNames) text += fmt::format(" and {} more", holders.size() - kMostNames);
  return text;
}

// The moment by which the head fits for certain, and the slots it would take then.
struct Reservation {
  const QueuedRun* run = nullptr;
  std::vector<bool> eligible{};
  std::optional<std::int64_t> start_ns{};  // none: nobody knows
  SlotSets slots{};                        // empty sets while start_ns is none
};

class Planner {
 public:
  Planner(const Cluster& cluster, const std::vector<Lease>& leases, std::int64_t now_ns)
      : cluster_(cluster), now_(now_ns), leases_(leases), free_(all_slots(cluster)) {
    for (Lease& lease : leases_) {
      // A run past its limit is being stopped: its slots are not free yet, but soon.
      if (lease.end_ns) lease.end_ns = std::max(*lease.end_ns, now_ + kSecond);
      take_slots(free_, cluster_, lease.placements);
    }
  }

  Plan run(const std::vector<QueuedRun>& queued) {
    std::vector<const QueuedRun*> line;
    for (const QueuedRun& one : queued)
      line.push_back(&one);
    const auto place = [](const QueuedRun* r) {
      return std::tuple<std::int64_t, const std::string&>(
          r->queue_time_ns - r->priority * kPriorityPointNs, r->id);
    };
    std::sort(line.begin(), line.end(),
              [&](const QueuedRun* a, const QueuedRun* b) { return place(a) < place(b); });
    for (const QueuedRun* one : line) {
      if (!start(*one)) wait(*one);
    }
    estimate();
    return std::move(plan_);
  }

 private:
  bool start(const QueuedRun& run) {
    const auto eligible = eligible_hosts(cluster_, run.resources, run.kind, false);
    const auto placements = fit(cluster_, allowed(run), eligible, run.resources);
    if (!placements) return false;
    take_slots(free_, cluster_, *placements);
    Lease lease{run.id, *placements, std::nullopt};
    if (run.time_limit_ns > 0) lease.end_ns = now_ + run.time_limit_ns;
    leases_.push_back(lease);
    plan_.starts.push_back({run.id, *placements});
    return true;
  }

  // The free slots that the run may take without delaying the head.
  SlotSets allowed(const QueuedRun& run) const {
    if (head_.run == nullptr) return free_;
    SlotSets slots = free_;
    if (head_.start_ns) {
      const bool gone_by_then =
          run.time_limit_ns > 0 && now_ + run.time_limit_ns <= *head_.start_ns;
      if (gone_by_then) return slots;
      for (std::size_t host = 0; host < slots.size(); ++host) {
        std::erase_if(slots[host], [&](int slot) {
          const std::vector<int>& kept = head_.slots[host];
          return std::find(kept.begin(), kept.end(), slot) != kept.end();
        });
      }
      return slots;
    }
    const auto most = static_cast<std::size_t>(most_on_one_host(head_.run->resources));
    for (std::size_t host = 0; host < slots.size(); ++host) {
      if (!head_.eligible[host]) continue;
      slots[host].erase(
          slots[host].begin(),
          slots[host].begin() + static_cast<std::ptrdiff_t>(std::min(most, slots[host].size())));
    }
    return slots;
  }

  void wait(const QueuedRun& run) {
    Wait answer{run.id, {}, plan_.line.size(), std::nullopt};
    const auto eligible = eligible_hosts(cluster_, run.resources, run.kind, false);
    if (auto never = why_never_fits(cluster_, run.resources, run.kind)) {
      answer.reasons.push_back({"NEVER_FITS", *never});
    } else if (!fit(cluster_, all_slots(cluster_), eligible, run.resources)) {
      answer.reasons.push_back({"HOST_DRAINED", drained_text(run)});
    } else {
      answer.reasons.push_back(slot_reason(run, eligible));
      if (head_.run == nullptr) reserve(run, eligible);
    }
    if (answer.ahead > 0) {
      answer.reasons.push_back(
          {"PRIORITY", fmt::format("{} run{} before it in line.", answer.ahead,
                                   answer.ahead == 1 ? " stands" : "s stand")});
    }
    plan_.waits.push_back(std::move(answer));
    plan_.line.push_back(run.id);
    waiting_.push_back(&run);
  }

  WaitReason slot_reason(const QueuedRun& run, const std::vector<bool>& eligible) const {
    const int ranks = std::max(1, run.resources.ranks);
    if (fit(cluster_, free_, eligible, run.resources)) {
      return {"RESERVED", fmt::format("The free slots are kept for {}, which stands before it; it "
                                      "could use them only with a time_limit that ends sooner.",
                                      head_.run->id)};
    }
    std::string text =
        fmt::format("It needs {}; {} of {} that it may use are free", slots_text(ranks),
                    count_slots(free_, eligible), count_slots(all_slots(cluster_), eligible));
    if (run.resources.ranks_per_host > 0) {
      text += fmt::format(", and it wants {} on each host", run.resources.ranks_per_host);
    }
    const std::vector<const Lease*> holders = holders_on(eligible);
    if (!holders.empty()) text += "; in the way: " + holders_text(holders);
    return {"SLOTS", text + "."};
  }

  std::vector<const Lease*> holders_on(const std::vector<bool>& eligible) const {
    std::vector<const Lease*> holders;
    for (const Lease& lease : leases_) {
      const bool there = std::any_of(
          lease.placements.begin(), lease.placements.end(), [&](const Placement& placement) {
            for (std::size_t host = 0; host < cluster_.hosts.size(); ++host) {
              if (eligible[host] && cluster_.hosts[host].name == placement.host) return true;
            }
            return false;
          });
      if (there) holders.push_back(&lease);
    }
    return holders;
  }

  std::string drained_text(const QueuedRun& run) const {
    const auto eligible = eligible_hosts(cluster_, run.resources, run.kind, true);
    std::string names;
    for (std::size_t host = 0; host < cluster_.hosts.size(); ++host) {
      if (!eligible[host] || !cluster_.hosts[host].drained) continue;
      names += (names.empty() ? "" : ", ") + cluster_.hosts[host].name;
    }
    return fmt::format("It needs {}, which are not there without the drained host {}.",
                       slots_text(std::max(1, run.resources.ranks)), names);
  }

  void reserve(const QueuedRun& run, const std::vector<bool>& eligible) {
    head_ = {&run, eligible, std::nullopt, SlotSets(free_.size())};
    const auto found = first_fit(run, eligible, leases_, now_);
    if (!found) return;
    head_.start_ns = found->first;
    for (const Placement& placement : found->second) {
      for (std::size_t host = 0; host < cluster_.hosts.size(); ++host) {
        if (cluster_.hosts[host].name == placement.host) head_.slots[host] = placement.slots;
      }
    }
  }

  // The first moment, not before `from`, at which the run fits as leases end by their limits, with
  // its slots then, those that are in use now first.
  std::optional<std::pair<std::int64_t, std::vector<Placement>>> first_fit(
      const QueuedRun& run, const std::vector<bool>& eligible, const std::vector<Lease>& leases,
      std::int64_t from) const {
    SlotSets slots = all_slots(cluster_);
    SlotSets busy(slots.size());
    std::vector<const Lease*> ending;
    for (const Lease& lease : leases) {
      if (lease.end_ns && *lease.end_ns <= from) continue;  // over by then
      take_slots(slots, cluster_, lease.placements);
      give_slots(busy, cluster_, lease.placements);
      if (lease.end_ns) ending.push_back(&lease);
    }
    std::sort(ending.begin(), ending.end(),
              [](const Lease* a, const Lease* b) { return *a->end_ns < *b->end_ns; });
    std::int64_t moment = from;
    for (std::size_t next = 0;; ++next) {
      if (auto placements = fit(cluster_, slots, eligible, run.resources, &busy)) {
        return std::pair{moment, *placements};
      }
      if (next == ending.size()) return std::nullopt;
      moment = std::max(from, *ending[next]->end_ns);
      give_slots(slots, cluster_, ending[next]->placements);
    }
  }

  // Walks the line as if every run took its whole time limit and nobody overtook.
  void estimate() {
    std::vector<Lease> leases = leases_;
    std::int64_t from = now_;
    for (std::size_t i = 0; i < std::min(waiting_.size(), kMostEstimates); ++i) {
      const QueuedRun& run = *waiting_[i];
      const std::string& reason = plan_.waits[i].reasons.front().reason;
      if (reason == "NEVER_FITS" || reason == "HOST_DRAINED") continue;
      const auto eligible = eligible_hosts(cluster_, run.resources, run.kind, false);
      const auto found = first_fit(run, eligible, leases, from);
      if (!found) return;
      from = found->first;
      plan_.waits[i].start_estimate_ns = from;
      Lease lease{run.id, found->second, std::nullopt};
      if (run.time_limit_ns > 0) lease.end_ns = from + run.time_limit_ns;
      leases.push_back(std::move(lease));
    }
  }

  const Cluster& cluster_;
  std::int64_t now_;
  std::vector<Lease> leases_;  // with those of the starts
  SlotSets free_;
  Reservation head_{};
  std::vector<const QueuedRun*> waiting_{};
  Plan plan_{};
};

}  // namespace

Plan plan(const Cluster& cluster, const std::vector<Lease>& leases,
          const std::vector<QueuedRun>& queued, std::int64_t now_ns) {
  return Planner(cluster, leases, now_ns).run(queued);
}

std::optional<std::string> why_never_fits(const Cluster& cluster, const Resources& resources,
                                          const std::string& kind) {
  for (const std::string& wanted : resources.hosts) {
    const bool known = std::any_of(cluster.hosts.begin(), cluster.hosts.end(),
                                   [&](const ClusterHost& host) { return host.name == wanted; });
    if (!known) return fmt::format("There is no host '{}'.", wanted);
  }
  const auto eligible = eligible_hosts(cluster, resources, kind, true);
  const SlotSets slots = all_slots(cluster);
  if (fit(cluster, slots, eligible, resources)) return std::nullopt;
  const int ranks = std::max(1, resources.ranks);
  return fmt::format(
      "It needs {}{}{}; the {} have {} of them in all.", kind.empty() ? "" : kind + " ",
      slots_text(ranks),
      resources.ranks_per_host > 0 ? fmt::format(", {} on each host", resources.ranks_per_host)
                                   : "",
      resources.hosts.empty() ? "hosts" : "hosts that it names", count_slots(slots, eligible));
}

}  // namespace lockstep::coordinator
