#include "core/processors.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>

namespace lockstep::core {

namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

// "200000 100000" or "max 100000" of version 2.
double quota_of_group(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  double quota = 0.0;
  double period = 0.0;
  return file >> quota >> period && quota > 0 && period > 0 ? quota / period : kNoQuota;
}

double number_in(const std::string& path) {
  std::ifstream file(path);
  double value = 0.0;
  return file >> value ? value : 0.0;
}

// Version 1: -1 is no quota.
double old_quota_of_group(const std::string& directory) {
  const double quota = number_in(directory + "/cpu.cfs_quota_us");
  const double period = number_in(directory + "/cpu.cfs_period_us");
  return quota > 0 && period > 0 ? quota / period : kNoQuota;
}

// The least of the group at `path` and those around it, which bind too.
double least_quota(const std::string& mount, std::string path,
                   double (*quota)(const std::string&)) {
  double least = quota(mount);
  while (path.size() > 1) {
    least = std::min(least, quota(mount + path));
    path.resize(path.rfind('/'));
  }
  return least;
}

bool is_cpu_controller(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

int cores_of_affinity() {
  // Machines may have more than the 1024 cores of a cpu_set_t.
  for (int most = CPU_SETSIZE; most <= 1 << 20; most *= 4) {
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    const auto free_set = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(free_set)> set(CPU_ALLOC(most), free_set);
    CPU_ZERO_S(bytes, set.get());
    if (sched_getaffinity(0, bytes, set.get()) == 0) {
      return std::max(1, CPU_COUNT_S(bytes, set.get()));
    }
  }
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

double cores_of_quota(const std::string& root) {
  double least = kNoQuota;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:cpu,cpuacct:/path", "0::/path"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      least = std::min(least, least_quota(root + "/sys/fs/cgroup", path, quota_of_group));
    } else if (is_cpu_controller(controllers)) {
      least = std::min(least, least_quota(root + "/sys/fs/cgroup/cpu", path, old_quota_of_group));
    }
  }
  return least;
}

int usable_cores() {
  const double quota = std::ceil(cores_of_quota());
  return static_cast<int>(std::clamp<double>(quota, 1.0, cores_of_affinity()));
}

std::string affinity_text() {
  std::ifstream file("/proc/self/status");
  constexpr std::string_view kKey = "Cpus_allowed_list:";
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(kKey)) return line.substr(line.find_first_not_of(" \t", kKey.size()));
  }
  return "";
}

}  // namespace lockstep::core
