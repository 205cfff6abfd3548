#include "comm/mpi/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace lockstep::comm {

namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

// The number after `key` in a file of lines "key number ...".
std::optional<std::uint64_t> find_number(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  std::uint64_t value = 0;
  while (file >> word) {
    if (word == key && file >> value) return value;
    file.clear();
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

std::optional<std::uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (file >> value) return value;  // "max" is not a number
  return std::nullopt;
}

std::uint64_t limit_of_group(const std::string& directory) {
  return read_number(directory + "/memory.max").value_or(kUnlimited);
}

std::uint64_t left_in_group(const std::string& directory) {
  const auto limit = read_number(directory + "/memory.max");
  const auto used = read_number(directory + "/memory.current");
  if (!limit || !used) return kUnlimited;
  const std::uint64_t cache = find_number(directory + "/memory.stat", "inactive_file").value_or(0);
  const std::uint64_t held = *used - std::min(*used, cache);
  return *limit - std::min(*limit, held);
}

// The least value of this process's control group and those around it.
std::uint64_t least_of_groups(std::uint64_t (*value)(const std::string& directory)) {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::string path;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  std::uint64_t least = value("/sys/fs/cgroup");
  while (path.size() > 1) {
    least = std::min(least, value("/sys/fs/cgroup" + path));
    path.resize(path.rfind('/'));
  }
  return least;
}

// The sum of two lines of /proc/meminfo, which counts KiB.
std::uint64_t machine_bytes(const std::string& memory_key, const std::string& swap_key) {
  const auto memory = find_number("/proc/meminfo", memory_key);
  const auto swap = find_number("/proc/meminfo", swap_key);
  return memory ? (*memory + swap.value_or(0)) * 1024 : kUnlimited;
}

}  // namespace

std::uint64_t available_memory() {
  return std::min(machine_bytes("MemAvailable:", "SwapFree:"), least_of_groups(left_in_group));
}

std::uint64_t memory_capacity() {
  return std::min(machine_bytes("MemTotal:", "SwapTotal:"), least_of_groups(limit_of_group));
}

}  // namespace lockstep::comm
