#include "coordinator/schedule/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kNow = 1'000'000 * kSecond;
constexpr std::int64_t kMinute = 60 * kSecond;

ClusterHost host(const std::string& name, int slots, const std::string& kind = "cpu") {
  ClusterHost made{name, kind, {}, false};
  for (int slot = 0; slot < slots; ++slot)
    made.slots.push_back(slot);
  return made;
}

QueuedRun run(const std::string& id, int ranks, std::int64_t limit = 0) {
  QueuedRun made;
  made.id = id;
  made.queue_time_ns = kNow - kMinute;
  made.resources.ranks = ranks;
  made.time_limit_ns = limit;
  return made;
}

const Wait& wait_of(const Plan& answer, const std::string& id) {
  const auto found = std::find_if(answer.waits.begin(), answer.waits.end(),
                                  [&](const Wait& wait) { return wait.run == id; });
  if (found == answer.waits.end()) throw std::runtime_error(id + " does not wait");
  return *found;
}

std::vector<std::string> started(const Plan& answer) {
  std::vector<std::string> ids;
  for (const Start& start : answer.starts)
    ids.push_back(start.run);
  return ids;
}

using Ids = std::vector<std::string>;

TEST(Scheduler, StartsByPriorityThenTimeThenId) {
  const Cluster cluster{{host("a", 3)}};
  std::vector<QueuedRun> queued = {run("d", 1), run("c", 1), run("b", 1), run("a", 1)};
  queued[0].priority = 5;
  queued[1].queue_time_ns -= kMinute;
  const Plan answer = plan(cluster, {}, queued, kNow);
  EXPECT_EQ(started(answer), (Ids{"d", "c", "a"}));
  EXPECT_EQ(answer.line, Ids{"b"});
  EXPECT_EQ(wait_of(answer, "b").reasons.front().reason, "SLOTS");
}

TEST(Scheduler, GangGetsAllSlotsOrNone) {
  const Cluster cluster{{host("a", 2), host("b", 1)}};
  EXPECT_EQ(plan(cluster, {{"x", {{"a", {0}}}, {}}}, {run("r", 3)}, kNow).starts.size(), 0U);
  const Plan answer = plan(cluster, {}, {run("r", 3)}, kNow);
  ASSERT_EQ(answer.starts.size(), 1U);
  EXPECT_EQ(answer.starts[0].placements, (std::vector<Placement>{{"a", {0, 1}}, {"b", {0}}}));
}

TEST(Scheduler, PrefersOneHostAndTheTightestOne) {
  const Cluster cluster{{host("a", 4), host("b", 2), host("c", 3)}};
  const Plan answer = plan(cluster, {}, {run("r", 2)}, kNow);
  EXPECT_EQ(answer.starts.at(0).placements, (std::vector<Placement>{{"b", {0, 1}}}));
}

TEST(Scheduler, RanksPerHostIsExact) {
  const Cluster cluster{{host("a", 4), host("b", 1), host("c", 2)}};
  QueuedRun wide = run("r", 5);
  wide.resources.ranks_per_host = 2;
  const Plan answer = plan(cluster, {}, {wide}, kNow);
  ASSERT_EQ(answer.starts.size(), 1U);
  EXPECT_EQ(answer.starts[0].placements,
            (std::vector<Placement>{{"a", {0, 1}}, {"c", {0, 1}}, {"b", {0}}}));
}

TEST(Scheduler, BackfillsWhatEndsBeforeTheHeadFits) {
  const Cluster cluster{{host("a", 2)}};
  const std::vector<Lease> leases = {{"old", {{"a", {0}}}, kNow + 10 * kMinute}};
  const std::vector<QueuedRun> queued = {run("1head", 2), run("2long", 1, 11 * kMinute),
                                         run("3short", 1, 10 * kMinute), run("4endless", 1)};
  const Plan answer = plan(cluster, leases, queued, kNow);
  EXPECT_EQ(started(answer), Ids{"3short"});
  EXPECT_EQ(answer.line, (Ids{"1head", "2long", "4endless"}));
  EXPECT_EQ(wait_of(answer, "1head").start_estimate_ns, kNow + 10 * kMinute);
  EXPECT_EQ(wait_of(answer, "1head").ahead, 0U);
  EXPECT_EQ(wait_of(answer, "4endless").ahead, 2U);
  EXPECT_EQ(wait_of(answer, "4endless").reasons.back().reason, "PRIORITY");
}

TEST(Scheduler, BackfillsSlotsThatTheHeadDoesNotNeed) {
  const Cluster cluster{{host("a", 2), host("b", 2)}};
  const std::vector<Lease> leases = {{"old", {{"a", {0}}}, {}}};
  QueuedRun head = run("1head", 2);
  head.resources.hosts = {"a"};
  const Plan answer = plan(cluster, leases, {head, run("2next", 2), run("3last", 1)}, kNow);
  EXPECT_EQ(started(answer), Ids{"2next"});
  EXPECT_EQ(wait_of(answer, "1head").reasons.at(0).reason, "SLOTS");
  EXPECT_EQ(wait_of(answer, "3last").reasons.at(0).reason, "RESERVED");
}

TEST(Scheduler, AnEndlessRunInTheWayLetsNothingPast) {
  const Cluster cluster{{host("a", 2)}};
  const Plan answer = plan(cluster, {{"old", {{"a", {0}}}, {}}},
                           {run("1head", 2), run("2short", 1, kMinute)}, kNow);
  EXPECT_TRUE(answer.starts.empty());
  EXPECT_FALSE(wait_of(answer, "1head").start_estimate_ns.has_value());
  EXPECT_EQ(wait_of(answer, "2short").reasons.at(0).reason, "RESERVED");
}

TEST(Scheduler, DrainedHostsHoldNobodyUp) {
  Cluster cluster{{host("a", 2), host("b", 1)}};
  cluster.hosts[0].drained = true;
  const Plan answer = plan(cluster, {}, {run("1big", 2), run("2small", 1)}, kNow);
  EXPECT_EQ(started(answer), Ids{"2small"});
  const Wait& big = wait_of(answer, "1big");
  EXPECT_EQ(big.reasons.at(0).reason, "HOST_DRAINED");
  EXPECT_NE(big.reasons.at(0).message.find("a"), std::string::npos);
}

TEST(Scheduler, SaysWhatCanNeverFit) {
  const Cluster cluster{{host("a", 2), host("g", 1, "gpu")}};
  EXPECT_FALSE(why_never_fits(cluster, {3, 0, {}}, "").has_value());
  EXPECT_TRUE(why_never_fits(cluster, {4, 0, {}}, "").has_value());
  EXPECT_TRUE(why_never_fits(cluster, {3, 0, {}}, "cpu").has_value());
  EXPECT_TRUE(why_never_fits(cluster, {2, 0, {}}, "gpu").has_value());
  EXPECT_TRUE(why_never_fits(cluster, {4, 2, {}}, "").has_value());
  EXPECT_NE(why_never_fits(cluster, {1, 0, {"zz"}}, "")->find("'zz'"), std::string::npos);
}

// A machine that is never free and a stream of runs that stand before: the big one starts once its
// wait has outweighed their priority, and not only when the stream ends.
TEST(Scheduler, NothingStarves) {
  const Cluster cluster{{host("a", 2)}};
  std::vector<Lease> leases;
  std::vector<QueuedRun> queued = {run("big", 2)};
  queued[0].queue_time_ns = kNow;
  for (int minute = 0; minute < 200; ++minute) {
    const std::int64_t now = kNow + minute * kMinute;
    QueuedRun more = run("m" + std::to_string(1000 + minute), 1, 2 * kMinute);
    more.priority = 2;
    more.queue_time_ns = now;
    queued.push_back(more);
    std::erase_if(leases, [&](const Lease& lease) { return *lease.end_ns <= now; });
    for (const Start& start : plan(cluster, leases, queued, now).starts) {
      if (start.run == "big") {
        EXPECT_GT(minute, 30);  // the others did stand before it
        return;
      }
      leases.push_back({start.run, start.placements, now + 2 * kMinute});
      std::erase_if(queued, [&](const QueuedRun& one) { return one.id == start.run; });
    }
  }
  FAIL() << "the big run never started";
}

// --- properties over random clusters, checked by code that shares nothing with the scheduler -----

struct Scene {
  Cluster cluster{};
  std::vector<Lease> leases{};
  std::vector<QueuedRun> queued{};
};

class Scenes {
 public:
  explicit Scenes(unsigned seed) : random_(seed) {}

  int below(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }

  Scene next() {
    Scene scene;
    for (int h = 0; h <= below(3); ++h) {
      scene.cluster.hosts.push_back(
          host("h" + std::to_string(h), 1 + below(4), below(4) == 0 ? "gpu" : "cpu"));
      scene.cluster.hosts.back().drained = below(6) == 0;
    }
    int made = 0;
    for (const ClusterHost& one : scene.cluster.hosts) {
      for (const int slot : one.slots) {
        if (below(2) == 0 || made >= 7) continue;
        Lease lease{"l" + std::to_string(made++), {{one.name, {slot}}}, {}};
        if (below(3) != 0) lease.end_ns = kNow + (1 + below(9)) * kMinute;
        scene.leases.push_back(lease);
      }
    }
    for (int r = 0; r <= below(6); ++r)
      scene.queued.push_back(next_run("r" + std::to_string(r)));
    return scene;
  }

 private:
  QueuedRun next_run(const std::string& id) {
    QueuedRun made = run(id, 1 + below(5), below(2) * (1 + below(12)) * kMinute);
    made.priority = below(3);
    made.queue_time_ns = kNow - below(300) * kMinute;
    made.resources.ranks_per_host = below(3) == 0 ? 1 + below(3) : 0;
    if (below(4) == 0) made.resources.hosts = {"h" + std::to_string(below(3))};
    if (below(4) == 0) made.kind = below(2) == 0 ? "cpu" : "gpu";
    return made;
  }

  std::mt19937 random_;
};

bool may_use(const ClusterHost& one, const QueuedRun& run, bool drained_too) {
  const auto& only = run.resources.hosts;
  return (only.empty() || std::find(only.begin(), only.end(), one.name) != only.end()) &&
         (run.kind.empty() || run.kind == one.kind) && (drained_too || !one.drained);
}

// Whether the run fits beside these leases.
bool feasible(const Scene& scene, const std::vector<const Lease*>& leases, const QueuedRun& run,
              bool drained_too = false) {
  std::vector<int> counts;
  for (const ClusterHost& one : scene.cluster.hosts) {
    if (!may_use(one, run, drained_too)) continue;
    int open = static_cast<int>(one.slots.size());
    for (const Lease* lease : leases) {
      for (const Placement& placement : lease->placements) {
        if (placement.host == one.name) open -= static_cast<int>(placement.slots.size());
      }
    }
    counts.push_back(open);
  }
  const int per_host = run.resources.ranks_per_host;
  if (per_host == 0) {
    int all = 0;
    for (const int count : counts)
      all += count;
    return all >= run.resources.ranks;
  }
  const int full = run.resources.ranks / per_host;
  const int rest = run.resources.ranks % per_host;
  const auto with = [&](int least) {
    return std::count_if(counts.begin(), counts.end(), [&](int count) { return count >= least; });
  };
  return with(per_host) >= full && (rest == 0 || with(rest) >= full + 1);
}

std::vector<const Lease*> pointers(const std::vector<Lease>& leases) {
  std::vector<const Lease*> all;
  for (const Lease& lease : leases)
    all.push_back(&lease);
  return all;
}

constexpr std::int64_t kNever = INT64_MAX;

// When the run fits for certain, by the known ends.
std::int64_t certain_start(const Scene& scene, const std::vector<Lease>& leases,
                           const QueuedRun& run) {
  std::set<std::int64_t> moments = {kNow};
  for (const Lease& lease : leases) {
    if (lease.end_ns) moments.insert(*lease.end_ns);
  }
  for (const std::int64_t moment : moments) {
    std::vector<const Lease*> left = pointers(leases);
    std::erase_if(left, [&](const Lease* l) { return l->end_ns && *l->end_ns <= moment; });
    if (feasible(scene, left, run)) return moment;
  }
  return kNever;
}

const QueuedRun& find_run(const Scene& scene, const std::string& id) {
  return *std::find_if(scene.queued.begin(), scene.queued.end(),
                       [&](const QueuedRun& one) { return one.id == id; });
}

// In line order by the documented rule.
bool stands_before(const QueuedRun& a, const QueuedRun& b) {
  const std::int64_t key_a = a.queue_time_ns - a.priority * kPriorityPointNs;
  const std::int64_t key_b = b.queue_time_ns - b.priority * kPriorityPointNs;
  return key_a != key_b ? key_a < key_b : a.id < b.id;
}

void expect_legal_starts(const Scene& scene, const Plan& answer) {
  std::set<std::pair<std::string, int>> used;
  for (const Lease& lease : scene.leases) {
    for (const Placement& placement : lease.placements) {
      for (const int slot : placement.slots)
        used.insert({placement.host, slot});
    }
  }
  for (const Start& start : answer.starts) {
    const QueuedRun& run = find_run(scene, start.run);
    int ranks = 0;
    for (const Placement& placement : start.placements) {
      const auto one = std::find_if(scene.cluster.hosts.begin(), scene.cluster.hosts.end(),
                                    [&](const ClusterHost& h) { return h.name == placement.host; });
      ASSERT_NE(one, scene.cluster.hosts.end());
      EXPECT_TRUE(may_use(*one, run, false));
      ranks += static_cast<int>(placement.slots.size());
      if (run.resources.ranks_per_host > 0) {
        EXPECT_LE(static_cast<int>(placement.slots.size()), run.resources.ranks_per_host);
      }
      for (const int slot : placement.slots) {
        EXPECT_TRUE(std::count(one->slots.begin(), one->slots.end(), slot) == 1);
        EXPECT_TRUE(used.insert({placement.host, slot}).second) << "a slot is leased twice";
      }
    }
    EXPECT_EQ(ranks, run.resources.ranks);
  }
}

void expect_line_and_reasons(const Scene& scene, const Plan& answer) {
  std::set<std::string> seen;
  for (const Start& start : answer.starts)
    EXPECT_TRUE(seen.insert(start.run).second);
  for (std::size_t i = 0; i < answer.waits.size(); ++i) {
    const Wait& wait = answer.waits[i];
    EXPECT_TRUE(seen.insert(wait.run).second);
    EXPECT_EQ(answer.line.at(i), wait.run);
    EXPECT_EQ(wait.ahead, i);
    EXPECT_FALSE(wait.reasons.empty());
    const bool never = wait.reasons.front().reason == "NEVER_FITS";
    const QueuedRun& run = find_run(scene, wait.run);
    EXPECT_EQ(never, !feasible(scene, {}, run, true) ||
                         why_never_fits(scene.cluster, run.resources, run.kind).has_value());
    if (i > 0) {
      EXPECT_TRUE(stands_before(find_run(scene, answer.waits[i - 1].run), run));
    }
  }
  EXPECT_EQ(seen.size(), scene.queued.size());
}

// The head: the first that waits although it would fit if everything here ended.
const QueuedRun* head_of(const Scene& scene, const Plan& answer) {
  for (const std::string& id : answer.line) {
    const QueuedRun& run = find_run(scene, id);
    const bool known_hosts = !why_never_fits(scene.cluster, run.resources, run.kind).has_value();
    if (known_hosts && feasible(scene, {}, run)) return &run;
  }
  return nullptr;
}

void expect_head_not_delayed(const Scene& scene, const Plan& answer) {
  const QueuedRun* head = head_of(scene, answer);
  if (head == nullptr) return;
  std::vector<Lease> before = scene.leases;
  for (const Start& start : answer.starts) {
    const QueuedRun& run = find_run(scene, start.run);
    if (stands_before(run, *head)) {
      before.push_back({start.run, start.placements, {}});
      if (run.time_limit_ns > 0) before.back().end_ns = kNow + run.time_limit_ns;
    }
  }
  EXPECT_FALSE(feasible(scene, pointers(before), *head)) << "the head could have started";
  std::vector<Lease> after = before;
  for (const Start& start : answer.starts) {
    const QueuedRun& run = find_run(scene, start.run);
    if (stands_before(run, *head)) continue;
    after.push_back({start.run, start.placements, {}});
    if (run.time_limit_ns > 0) after.back().end_ns = kNow + run.time_limit_ns;
  }
  const std::int64_t certain = certain_start(scene, before, *head);
  EXPECT_LE(certain_start(scene, after, *head), certain) << "backfill delays the head";
  if (certain != kNever) return;
  // Nobody knows when: whatever ends first, the head must find what it would have found.
  for (unsigned ended = 0; ended < (1U << before.size()); ++ended) {
    std::vector<const Lease*> without;
    for (std::size_t i = 0; i < before.size(); ++i) {
      if ((ended >> i & 1U) == 0) without.push_back(&before[i]);
    }
    if (!feasible(scene, without, *head)) continue;
    std::vector<const Lease*> with = without;
    for (std::size_t i = before.size(); i < after.size(); ++i)
      with.push_back(&after[i]);
    ASSERT_TRUE(feasible(scene, with, *head)) << "backfill delays the head";
  }
}

TEST(SchedulerProperties, HoldOnRandomClusters) {
  Scenes scenes(20261121);
  int backfills = 0;
  for (int i = 0; i < 20000 && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    const Scene scene = scenes.next();
    const Plan answer = plan(scene.cluster, scene.leases, scene.queued, kNow);
    expect_legal_starts(scene, answer);
    expect_line_and_reasons(scene, answer);
    expect_head_not_delayed(scene, answer);
    const QueuedRun* head = head_of(scene, answer);
    for (const Start& start : answer.starts)
      backfills += head != nullptr && stands_before(*head, find_run(scene, start.run)) ? 1 : 0;
  }
  EXPECT_GT(backfills, 200) << "the scenes do not try what they are for";
}

TEST(SchedulerProperties, TheOrderOfTheQueueDoesNotMatter) {
  Scenes scenes(7);
  std::mt19937 random(11);
  for (int i = 0; i < 300; ++i) {
    Scene scene = scenes.next();
    const Plan first = plan(scene.cluster, scene.leases, scene.queued, kNow);
    std::shuffle(scene.queued.begin(), scene.queued.end(), random);
    const Plan second = plan(scene.cluster, scene.leases, scene.queued, kNow);
    EXPECT_EQ(first.line, second.line);
    EXPECT_EQ(started(first), started(second));
  }
}

}  // namespace
}  // namespace lockstep::coordinator
