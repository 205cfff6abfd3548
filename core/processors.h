#pragma once

#include <string>

namespace lockstep::core {

// Processor cores that this process may use at a time, at least 1: those that its affinity allows
// (taskset, a cpuset, a launcher that binds), or what the quotas of its control groups come to
// (cpu.max, cpu.cfs_quota_us), whichever is less. What /sys shows of the machine may be more.
int usable_cores();

// The two parts of it.
int cores_of_affinity();
double cores_of_quota(const std::string& root = "");  // infinite: no quota; root: of /proc, /sys

// The cores of the affinity as the kernel writes them ("0-1,4"): alike for processes that share
// them.
std::string affinity_text();

}  // namespace lockstep::core
