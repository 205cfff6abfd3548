#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/model/run.h"

// Who gets which slots, and why a run waits. Pure: what it answers depends on its arguments alone,
// so the coordinator may ask as often as it likes, and a test may ask about any cluster.
//
// Order: a run stands in line at queue time minus priority x kPriorityPointNs; earlier stands first,
// then the smaller id. Among runs that came at about the same time that is priority, then time; and
// since a point of priority is worth a bounded time, no stream of later runs starves an earlier
// one.
//
// Gang: a run gets all its slots in one answer or none.
//
// Backfill: the first run in line that does not fit is the head. A run behind it may start only if
// it does not delay it (the EASY rule): it ends, by its time limit, before the moment at which the
// head would fit by the time limits of what runs now; or it uses only slots that the head does not
// need then. Where that moment is unknown, because something without a time limit is in the way,
// only slots that can never be of use to the head count. A run that does not fit even on all hosts
// that are not drained is no head: it holds nobody up.
namespace lockstep::coordinator {

inline constexpr std::int64_t kPriorityPointNs = std::int64_t{3600} * 1'000'000'000;  // an hour

struct ClusterHost {
  std::string name{};
  std::string kind = "cpu";  // of its slots: "cpu" or "gpu"
  std::vector<std::int32_t> slots{};
  bool drained = false;  // what runs there goes on; nothing starts
};

struct Cluster {
  std::vector<ClusterHost> hosts{};  // in the order of the configuration
};

// Slots in use, from before the attempt is started until its processes are proved gone.
struct Lease {
  std::string run{};
  std::vector<Placement> placements{};
  std::optional<std::int64_t> end_ns{};  // start plus time limit; none: nobody knows
};

struct QueuedRun {
  std::string id{};
  std::int32_t priority = 0;
  std::int64_t queue_time_ns = 0;
  Resources resources{};
  std::string kind{};              // of slots; empty: any
  std::int64_t time_limit_ns = 0;  // 0: none
};

struct Start {
  std::string run{};
  std::vector<Placement> placements{};  // in the order of ranks
};

// Reasons: NEVER_FITS, HOST_DRAINED, SLOTS, RESERVED (enough slots are free, but the head needs
// them), PRIORITY (others stand before it).
struct WaitReason {
  std::string reason{};
  std::string message{};  // one sentence
};

struct Wait {
  std::string run{};
  std::vector<WaitReason> reasons{};  // in order of weight; never empty
  std::size_t ahead = 0;              // the first `ahead` entries of Plan::line stand before it
  std::optional<std::int64_t> start_estimate_ns{};
};

struct Plan {
  std::vector<Start> starts{};      // to be made now, all of them
  std::vector<Wait> waits{};        // in line order
  std::vector<std::string> line{};  // the runs that wait, in line order
};

// `queued` in any order; each id once. Leases of hosts or slots that the cluster does not have are
// allowed (a host taken out of the configuration) and take nothing away.
Plan plan(const Cluster& cluster, const std::vector<Lease>& leases,
          const std::vector<QueuedRun>& queued, std::int64_t now_ns);

// Whether the run could start on this cluster with every slot free and no host drained; else the
// sentence that says why not. `kind` as in QueuedRun.
std::optional<std::string> why_never_fits(const Cluster& cluster, const Resources& resources,
                                          const std::string& kind);

}  // namespace lockstep::coordinator
