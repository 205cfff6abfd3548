#pragma once

#include <optional>
#include <string>
#include <vector>

#include "coordinator/schedule/scheduler.h"

namespace lockstep::coordinator {

// Slots of each host, by the host's place in the cluster; of one host ascending.
using SlotSets = std::vector<std::vector<int>>;

// Every slot of the cluster, free or not.
SlotSets all_slots(const Cluster& cluster);

void take_slots(SlotSets& slots, const Cluster& cluster, const std::vector<Placement>& placements);
// Gives back; slots that the cluster does not have are left out.
void give_slots(SlotSets& slots, const Cluster& cluster, const std::vector<Placement>& placements);

// For each host whether a run may use it at all.
std::vector<bool> eligible_hosts(const Cluster& cluster, const Resources& resources,
                                 const std::string& kind, bool drained_too);

// Most slots that a run can use on one host.
int most_on_one_host(const Resources& resources);

// How many of the slots the run may use at all.
int count_slots(const SlotSets& slots, const std::vector<bool>& eligible);

// Slots for all ranks, or none. Few hosts, and those that it leaves the least free on; of a host
// those in `prefer` (same form as `slots`) first, then ascending. In the order of ranks.
std::optional<std::vector<Placement>> fit(const Cluster& cluster, const SlotSets& slots,
                                          const std::vector<bool>& eligible,
                                          const Resources& resources,
                                          const SlotSets* prefer = nullptr);

}  // namespace lockstep::coordinator
