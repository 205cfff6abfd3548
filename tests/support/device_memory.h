#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/support/device_trace.h"

// The memory that recording_runtime() has given away on its devices, and to which thread.
namespace lockstep::testing {

void note_allocation(const void* memory, std::size_t bytes);
void note_release(const void* memory);

// From an address to the end of the allocation that holds it; empty where none does.
Access rest_of_allocation(const void* address, bool writes);

// What lies in all that the calling thread has allocated, but for allocations that are said to be
// written as a whole.
class MemorySnapshot {
 public:
  explicit MemorySnapshot(const std::vector<Access>& said);

  // What has changed since then outside all bytes that are said to be written: "byte 64 of an
  // allocation of 4096", for each allocation. Nothing where it was said.
  std::vector<std::string> changed_outside(const std::vector<Access>& said) const;

 private:
  std::map<std::uintptr_t, std::vector<std::byte>> contents_;  // by address
};

}  // namespace lockstep::testing
