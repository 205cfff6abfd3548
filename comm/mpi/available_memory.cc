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

std::uint64_t left_in_group(const std::string& directory) {
  const auto limit = read_number(directory + "/memory.max");
  const auto used = read_number(directory + "/memory.current");
  if (!limit || !used) return kUnlimited;
  const std::uint64_t cache = find_number(directory + "/memory.stat", "inactive_file").value_or(0);
  const std::uint64_t held = *used - std::min(*used, cache);
  return *limit - std::min(*limit, held);
}

// The least that is left in this process's control group and those around it.
std::uint64_t left_in_groups() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::string path;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  std::uint64_t least = left_in_group("/sys/fs/cgroup");
  while (path.size() > 1) {
    least = std::min(least, left_in_group("/sys/fs/cgroup" + path));
    path.resize(path.rfind('/'));
  }
  return least;
}

}  // namespace

std::uint64_t available_memory() {
  const auto available = find_number("/proc/meminfo", "MemAvailable:");
  const auto swap = find_number("/proc/meminfo", "SwapFree:");
  const std::uint64_t machine =
      available ? (*available + swap.value_or(0)) * 1024 : kUnlimited;  // the file counts KiB
  return std::min(machine, left_in_groups());
}

}  // namespace lockstep::comm
