#include "tests/comm/nccl_registered.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "tests/comm/nccl_stand_in_comm.h"
#include "tests/support/async_device.h"

namespace lockstep::comm::testing {

namespace {

using lockstep::testing::async_runtime;

// What was given out, and how many communicators have it registered.
struct Given {
  std::mutex mutex;
  std::map<const void*, int> registrations;
};

Given& given() {
  static Given all;
  return all;
}

}  // namespace

void note_misuse(const std::string& what) {
  const std::lock_guard lock(nccl_state().mutex);
  nccl_state().misuses.push_back(what);
}

Registrations::~Registrations() {
  while (!entries_.empty())
    remove(entries_.begin()->first, entries_.begin()->second.kept);
}

void Registrations::add(const void* memory, std::size_t bytes, Kept kept) {
  if (!entries_.emplace(static_cast<const std::byte*>(memory), Entry{bytes, kept}).second) {
    note_misuse("memory was registered twice with one communicator");
    return;
  }
  const std::lock_guard lock(given().mutex);
  const auto found = given().registrations.find(memory);
  if (found == given().registrations.end()) {
    note_misuse("memory was registered that is not of ncclMemAlloc");
    return;
  }
  ++found->second;
}

bool Registrations::remove(const void* memory, Kept kept) {
  const auto found = entries_.find(static_cast<const std::byte*>(memory));
  if (found == entries_.end() || found->second.kept != kept) return false;
  entries_.erase(found);
  const std::lock_guard lock(given().mutex);
  --given().registrations[memory];
  return true;
}

Place Registrations::find(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  auto after = entries_.upper_bound(at);
  if (after == entries_.begin()) return {};
  --after;
  const auto offset = static_cast<std::size_t>(at - after->first);
  return offset < after->second.bytes ? Place{after->second.kept, offset} : Place{};
}

nccl::Result give_memory(void** memory, std::size_t bytes) {
  if (async_runtime().allocate(0, bytes, memory) != 0) return nccl::kUnhandledCudaError;
  const std::lock_guard lock(given().mutex);
  given().registrations[*memory] = 0;
  return nccl::kSuccess;
}

// That a stream is still to touch it is seen, and waited for, by the runtime; NCCL does not wait.
nccl::Result take_memory(void* memory) {
  {
    const std::lock_guard lock(given().mutex);
    const auto found = given().registrations.find(memory);
    if (found == given().registrations.end()) return nccl::kInvalidArgument;
    if (found->second > 0) note_misuse("memory was freed that is still registered");
    given().registrations.erase(found);
  }
  return async_runtime().release(memory) == 0 ? nccl::kSuccess : nccl::kUnhandledCudaError;
}

// Once all ranks have come it is made, in the background; one that fails does not come.
void look_at_window(nccl::Comm* comm) {
  if (!comm->pending_window) return;
  Group& group = *comm->state->group;
  const NcclFaults faults = faults_of(comm->state->rank);
  if (faults.register_fails != nccl::kSuccess) {
    comm->error = faults.register_fails;
    comm->last_error = "the window was not made";
    return;
  }
  const std::lock_guard lock(group.mutex);
  const std::vector<std::size_t>& sizes = group.windows[comm->pending_window->number];
  if (sizes.size() < static_cast<std::size_t>(group.ranks)) return;
  const auto window = *std::exchange(comm->pending_window, std::nullopt);
  if (faults.register_skips) return;
  if (std::count(sizes.begin(), sizes.end(), sizes.front()) != group.ranks)
    note_misuse("ranks registered windows of different sizes");
  comm->registrations.add(window.memory, window.bytes, Kept::kWindow);
  *window.result = reinterpret_cast<nccl::Window*>(window.memory);
}

nccl::Result register_window(nccl::Comm* comm, void* memory, std::size_t bytes,
                             nccl::Window** window, int flags) {
  if (const nccl::Result ready = check_ready(comm); ready != nccl::kSuccess) return ready;
  if (flags != nccl::kWindowSymmetric) return nccl::kInvalidArgument;
  note(*comm, fmt::format("register window {}", bytes));
  comm->pending_window = {comm->next_window++, memory, bytes, window};
  comm->polls_left = 2;
  const NcclFaults faults = faults_of(comm->state->rank);
  if (!faults.window_never_ends && faults.register_fails == nccl::kSuccess) {
    Group& group = *comm->state->group;
    const std::lock_guard lock(group.mutex);
    group.windows[comm->pending_window->number].push_back(bytes);
  }
  // Some versions say one thing and some the other.
  return comm->state->rank % 2 == 0 ? nccl::kSuccess : nccl::kInProgress;
}

nccl::Result deregister_window(nccl::Comm* comm, nccl::Window* window) {
  if (const nccl::Result ready = check_ready(comm); ready != nccl::kSuccess) return ready;
  note(*comm, "deregister window");
  return comm->registrations.remove(window, Kept::kWindow) ? nccl::kSuccess : nccl::kInvalidUsage;
}

nccl::Result register_local(nccl::Comm* comm, void* memory, std::size_t bytes, void** handle) {
  if (const nccl::Result ready = check_ready(comm); ready != nccl::kSuccess) return ready;
  const NcclFaults faults = faults_of(comm->state->rank);
  note(*comm, fmt::format("register {}", bytes));
  if (faults.register_fails != nccl::kSuccess) {
    return refuse(comm, faults.register_fails, "the buffer was not registered");
  }
  if (faults.register_skips) return nccl::kSuccess;
  comm->registrations.add(memory, bytes, Kept::kLocal);
  *handle = memory;
  return nccl::kSuccess;
}

// It goes on for a while, as any call may.
nccl::Result deregister_local(nccl::Comm* comm, void* handle) {
  if (const nccl::Result ready = check_ready(comm); ready != nccl::kSuccess) return ready;
  note(*comm, "deregister");
  if (!comm->registrations.remove(handle, Kept::kLocal)) return nccl::kInvalidUsage;
  comm->polls_left = 2;
  return nccl::kInProgress;
}

int live_nccl_memory() {
  const std::lock_guard lock(given().mutex);
  return static_cast<int>(given().registrations.size());
}

}  // namespace lockstep::comm::testing
