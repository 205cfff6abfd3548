#include "tests/support/device_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

namespace lockstep::testing {

namespace {

struct Allocation {
  std::size_t bytes;
  std::thread::id owner;
};

struct Allocations {
  std::mutex mutex;
  std::map<std::uintptr_t, Allocation> all;
};

Allocations& allocations() {
  static Allocations instance;
  return instance;
}

std::uintptr_t address_of(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory);
}

const std::byte* memory_at(std::uintptr_t address) {
  return reinterpret_cast<const std::byte*>(address);
}

// The first byte of what lies at `begin` that has changed and is not said to be written.
std::optional<std::size_t> first_unsaid(std::uintptr_t begin, const std::vector<std::byte>& before,
                                        const std::vector<Access>& said) {
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (memory_at(begin)[i] == before[i]) continue;
    const std::uintptr_t at = begin + i;
    const auto covers = std::find_if(said.begin(), said.end(), [&](const Access& access) {
      return access.writes && access.begin <= at && at < access.end;
    });
    if (covers == said.end()) return i;
    i = covers->end - begin - 1;
  }
  return std::nullopt;
}

}  // namespace

void note_allocation(const void* memory, std::size_t bytes) {
  const std::lock_guard lock(allocations().mutex);
  allocations().all[address_of(memory)] = {bytes, std::this_thread::get_id()};
}

void note_release(const void* memory) {
  const std::lock_guard lock(allocations().mutex);
  allocations().all.erase(address_of(memory));
}

Access rest_of_allocation(const void* address, bool writes) {
  const std::uintptr_t at = address_of(address);
  const std::lock_guard lock(allocations().mutex);
  auto found = allocations().all.upper_bound(at);
  if (found == allocations().all.begin()) return {};
  --found;
  const std::uintptr_t end = found->first + found->second.bytes;
  return at < end ? Access{at, end, writes} : Access{};
}

MemorySnapshot::MemorySnapshot(const std::vector<Access>& said) {
  const std::lock_guard lock(allocations().mutex);
  for (const auto& [begin, allocation] : allocations().all) {
    const std::uintptr_t from = begin;
    const std::uintptr_t to = begin + allocation.bytes;
    const bool whole = std::any_of(said.begin(), said.end(), [&](const Access& access) {
      return access.writes && access.begin <= from && to <= access.end;
    });
    if (whole || allocation.owner != std::this_thread::get_id()) continue;
    contents_[begin].assign(memory_at(begin), memory_at(to));
  }
}

std::vector<std::string> MemorySnapshot::changed_outside(const std::vector<Access>& said) const {
  std::vector<std::string> found;
  for (const auto& [begin, before] : contents_) {
    if (before.empty() || std::memcmp(memory_at(begin), before.data(), before.size()) == 0)
      continue;
    if (const auto at = first_unsaid(begin, before, said))
      found.push_back(fmt::format("byte {} of an allocation of {}", *at, before.size()));
  }
  return found;
}

}  // namespace lockstep::testing
