#include "coordinator/schedule/free_slots.h"

#include <algorithm>
#include <numeric>

namespace lockstep::coordinator {
namespace {

struct Share {
  std::size_t host = 0;
  int ranks = 0;
};

// The host with the fewest slots, but at least `ranks`, that is not in `shares` yet.
std::optional<std::size_t> tightest_host(const std::vector<int>& counts, int ranks,
                                         const std::vector<Share>& shares) {
  std::optional<std::size_t> best;
  for (std::size_t host = 0; host < counts.size(); ++host) {
    const bool taken = std::any_of(shares.begin(), shares.end(),
                                   [host](const Share& share) { return share.host == host; });
    if (taken || counts[host] < ranks) continue;
    if (!best || counts[host] < counts[*best]) best = host;
  }
  return best;
}

// Exactly `per_host` on every host, the rest on one more.
std::optional<std::vector<Share>> even_shares(const std::vector<int>& counts, int ranks,
                                              int per_host) {
  std::vector<Share> shares;
  for (int left = ranks; left > 0;) {
    const int here = std::min(left, per_host);
    const std::optional<std::size_t> host = tightest_host(counts, here, shares);
    if (!host) return std::nullopt;
    shares.push_back({*host, here});
    left -= here;
  }
  return shares;
}

// One host if one is enough, else the fullest ones until the rest fits one.
std::optional<std::vector<Share>> packed_shares(const std::vector<int>& counts, int ranks) {
  if (std::accumulate(counts.begin(), counts.end(), 0) < ranks) return std::nullopt;
  std::vector<Share> shares;
  std::vector<int> open = counts;
  for (int left = ranks; left > 0;) {
    std::size_t host = 0;
    if (const auto tight = tightest_host(open, left, shares)) {
      host = *tight;
    } else {
      host = static_cast<std::size_t>(std::max_element(open.begin(), open.end()) - open.begin());
    }
    const int here = std::min(left, open[host]);
    shares.push_back({host, here});
    open[host] = 0;
    left -= here;
  }
  return shares;
}

std::vector<int> pick_slots(const std::vector<int>& slots, int count,
                            const std::vector<int>* prefer) {
  std::vector<int> ordered = slots;
  if (prefer != nullptr) {
    std::stable_partition(ordered.begin(), ordered.end(), [prefer](int slot) {
      return std::binary_search(prefer->begin(), prefer->end(), slot);
    });
  }
  ordered.resize(static_cast<std::size_t>(count));
  std::sort(ordered.begin(), ordered.end());
  return ordered;
}

std::optional<std::size_t> find_host(const Cluster& cluster, const std::string& name) {
  for (std::size_t host = 0; host < cluster.hosts.size(); ++host) {
    if (cluster.hosts[host].name == name) return host;
  }
  return std::nullopt;
}

}  // namespace

SlotSets all_slots(const Cluster& cluster) {
  SlotSets slots;
  for (const ClusterHost& host : cluster.hosts) {
    slots.emplace_back(host.slots.begin(), host.slots.end());
    std::sort(slots.back().begin(), slots.back().end());
  }
  return slots;
}

void take_slots(SlotSets& slots, const Cluster& cluster, const std::vector<Placement>& placements) {
  for (const Placement& placement : placements) {
    const auto host = find_host(cluster, placement.host);
    if (!host) continue;
    for (const int slot : placement.slots)
      std::erase(slots[*host], slot);
  }
}

void give_slots(SlotSets& slots, const Cluster& cluster, const std::vector<Placement>& placements) {
  for (const Placement& placement : placements) {
    const auto host = find_host(cluster, placement.host);
    if (!host) continue;
    const std::vector<std::int32_t>& real = cluster.hosts[*host].slots;
    std::vector<int>& open = slots[*host];
    for (const int slot : placement.slots) {
      if (std::find(real.begin(), real.end(), slot) == real.end()) continue;
      const auto place = std::lower_bound(open.begin(), open.end(), slot);
      if (place == open.end() || *place != slot) open.insert(place, slot);
    }
  }
}

std::vector<bool> eligible_hosts(const Cluster& cluster, const Resources& resources,
                                 const std::string& kind, bool drained_too) {
  std::vector<bool> eligible;
  for (const ClusterHost& host : cluster.hosts) {
    const auto& only = resources.hosts;
    const bool named = only.empty() || std::find(only.begin(), only.end(), host.name) != only.end();
    eligible.push_back(named && (kind.empty() || kind == host.kind) &&
                       (drained_too || !host.drained));
  }
  return eligible;
}

int most_on_one_host(const Resources& resources) {
  const int ranks = std::max(1, resources.ranks);
  return resources.ranks_per_host > 0 ? std::min(ranks, resources.ranks_per_host) : ranks;
}

int count_slots(const SlotSets& slots, const std::vector<bool>& eligible) {
  std::size_t count = 0;
  for (std::size_t host = 0; host < slots.size(); ++host) {
    if (eligible[host]) count += slots[host].size();
  }
  return static_cast<int>(count);
}

std::optional<std::vector<Placement>> fit(const Cluster& cluster, const SlotSets& slots,
                                          const std::vector<bool>& eligible,
                                          const Resources& resources, const SlotSets* prefer) {
  std::vector<int> counts;
  for (std::size_t host = 0; host < slots.size(); ++host)
    counts.push_back(eligible[host] ? static_cast<int>(slots[host].size()) : 0);
  const int ranks = std::max(1, resources.ranks);
  auto shares = resources.ranks_per_host > 0 ? even_shares(counts, ranks, resources.ranks_per_host)
                                             : packed_shares(counts, ranks);
  if (!shares) return std::nullopt;
  // Full hosts first, so that ranks of one host are neighbours and only the last host has fewer.
  std::stable_sort(shares->begin(), shares->end(), [](const Share& a, const Share& b) {
    return a.ranks != b.ranks ? a.ranks > b.ranks : a.host < b.host;
  });
  std::vector<Placement> placements;
  for (const Share& share : *shares) {
    placements.push_back({cluster.hosts[share.host].name,
                          pick_slots(slots[share.host], share.ranks,
                                     prefer == nullptr ? nullptr : &(*prefer)[share.host])});
  }
  return placements;
}

}  // namespace lockstep::coordinator
