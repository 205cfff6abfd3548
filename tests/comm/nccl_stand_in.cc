#include "tests/comm/nccl_stand_in.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "tests/comm/nccl_meeting.h"
#include "tests/comm/nccl_registered.h"
#include "tests/comm/nccl_stand_in_comm.h"
#include "tests/support/async_device.h"

namespace lockstep::comm {

namespace testing {
namespace {

using lockstep::testing::enqueue;
using lockstep::testing::Touched;
using nccl::Result;
using Stream = nccl::Api::Stream;

std::map<std::string, std::shared_ptr<Group>>& groups() {
  static std::map<std::string, std::shared_ptr<Group>> all;
  return all;
}

std::atomic<int> comms_alive{0};
std::atomic<int> groups_open{0};

// Ranks that were aborted and did not hear it. Of one test at a time.
std::vector<std::shared_ptr<nccl::Comm::State>>& deaf() {
  static std::vector<std::shared_ptr<nccl::Comm::State>> all;
  return all;
}

// The rank comes to the collective and stays until it is over, or given up: for as long as that
// takes on a stream, not forever where the host stands still meanwhile.
void meet(const std::shared_ptr<nccl::Comm::State>& state, std::uint64_t number, const Part& part,
          bool at_once) {
  Group& group = *state->group;
  std::unique_lock lock(group.mutex);
  Meeting& meeting = group.meetings[number];
  meeting.parts.resize(static_cast<std::size_t>(group.ranks));
  if (number >= faults_of(state->rank).async_error_after) state->lost_a_peer = true;
  if (state->lost_a_peer) meeting.broken = true;
  if (state->aborted) {
    meeting.broken = true;
    return;
  }
  meeting.parts[static_cast<std::size_t>(state->rank)] = part;
  const bool all = std::all_of(meeting.parts.begin(), meeting.parts.end(),
                               [](const auto& p) { return p.has_value(); });
  if (all && !meeting.broken && fit(meeting)) {
    check_places(meeting);
    perform(meeting);
    meeting.over = true;
    group.changed.notify_all();
  }
  const auto ended = [&] { return meeting.over || state->aborted; };
  if (at_once) {
    if (!group.changed.wait_for(lock, kPatience, ended)) state->lost_a_peer = true;
  } else {
    group.changed.wait(lock, ended);
  }
  if (!meeting.over) meeting.broken = true;
  lock.unlock();
  std::this_thread::sleep_for(faults_of(state->rank).slower);
}

bool works_at_once() {
  const std::lock_guard lock(nccl_state().mutex);
  return nccl_state().at_once;
}

Touched touched_by(const Part& part) {
  Touched all{part.send, part.receive};
  for (const auto& [peer, memory] : part.sends)
    all.push_back(memory);
  for (const auto& [peer, memory] : part.receives)
    all.push_back(memory);
  return all;
}

Result enter(nccl::Comm* comm, const Part& part, const char* name, Stream stream) {
  note(*comm, fmt::format("{} {}", name, part.count));
  const std::uint64_t number = comm->next++;
  if (works_at_once()) {
    meet(comm->state, number, part, true);
  } else {
    enqueue(
        stream, [state = comm->state, number, part] { meet(state, number, part, false); },
        touched_by(part));
  }
  comm->polls_left = 2;
  return nccl::kInProgress;
}

// Its own part in place lies where the rank's number says, so there it is the whole that counts.
std::vector<Place> places_of(const nccl::Comm& comm, const Part& part) {
  const std::size_t own =
      part.count * size_of(part.type) * static_cast<std::size_t>(comm.state->rank);
  const bool in_place = part.kind == Kind::kAllGather       ? part.send == part.receive + own
                        : part.kind == Kind::kReduceScatter ? part.receive == part.send + own
                                                            : false;
  const Place send = comm.registrations.find(part.send);
  const Place receive = comm.registrations.find(part.receive);
  if (!in_place) return {send, receive};
  return {part.kind == Kind::kAllGather ? receive : send};
}

// As NCCL chooses: all-gathers in symmetric windows, where the communicator was told to.
std::string name_of(const nccl::Comm& comm, const Part& part, const char* name) {
  const bool windows = std::all_of(part.places.begin(), part.places.end(),
                                   [](const Place& p) { return p.kept == Kept::kWindow; });
  return part.kind == Kind::kAllGather && windows && comm.copy_engines
             ? fmt::format("{} by copy engines", name)
             : name;
}

Result collective(nccl::Comm* comm, Part part, const char* name, const void* send, void* receive,
                  Stream stream) {
  if (const Result ready = check_ready(comm); ready != nccl::kSuccess) return ready;
  part.send = static_cast<const std::byte*>(send);
  part.receive = static_cast<std::byte*>(receive);
  part.places = places_of(*comm, part);
  return enter(comm, part, name_of(*comm, part, name).c_str(), stream);
}

// ---- Groups of sends and receives -----------------------------------------------------------

struct OpenGroup {
  bool open = false;
  nccl::Comm* comm = nullptr;
  Stream stream = nullptr;
  Part part;
  int sends = 0;
  Result error = nccl::kSuccess;
};
thread_local OpenGroup open_group;

Result group_start() {
  open_group = {};
  open_group.open = true;
  ++groups_open;
  return nccl::kSuccess;
}

Result group_end() {
  if (!open_group.open) return nccl::kInvalidUsage;
  const OpenGroup group = std::exchange(open_group, {});
  --groups_open;
  if (group.error != nccl::kSuccess) return group.error;
  if (group.comm == nullptr) return nccl::kSuccess;
  return enter(group.comm, group.part, "exchange", group.stream);
}

Result add_to_group(nccl::Comm* comm, std::size_t count, nccl::DataType type, Stream stream) {
  if (!open_group.open) return refuse(comm, nccl::kInvalidUsage, "a send outside a group");
  if (const Result ready = check_ready(comm); ready != nccl::kSuccess) {
    open_group.error = ready;
    return ready;
  }
  open_group.comm = comm;
  open_group.stream = stream;
  open_group.part.kind = Kind::kExchange;
  open_group.part.count = count;
  open_group.part.type = type;
  return nccl::kSuccess;
}

Result send(const void* data, std::size_t count, nccl::DataType type, int peer, nccl::Comm* comm,
            Stream stream) {
  if (const Result added = add_to_group(comm, count, type, stream); added != nccl::kSuccess) {
    return added;
  }
  open_group.part.places.push_back(comm->registrations.find(data));
  if (open_group.sends++ == faults_of(comm->state->rank).failing_send) {
    open_group.error = nccl::kSystemError;
    return refuse(comm, nccl::kSystemError, "no socket to a peer");
  }
  open_group.part.sends[peer] = static_cast<const std::byte*>(data);
  return nccl::kSuccess;
}

Result receive(void* data, std::size_t count, nccl::DataType type, int peer, nccl::Comm* comm,
               Stream stream) {
  const Result added = add_to_group(comm, count, type, stream);
  if (added == nccl::kSuccess) open_group.part.receives[peer] = static_cast<std::byte*>(data);
  return added;
}

// ---- Communicators --------------------------------------------------------------------------

Result get_unique_id(nccl::UniqueId* id) {
  static std::atomic<int> made{0};
  fmt::format_to_n(id->internal, sizeof(id->internal) - 1, "stand-in group {}", made++);
  const std::lock_guard lock(nccl_state().mutex);
  groups()[id->internal] = std::make_shared<Group>();
  return nccl::kSuccess;
}

Result init(nccl::Comm** comm, int ranks, nccl::UniqueId id, int rank, nccl::Config* config) {
  const NcclFaults faults = faults_of(rank);
  if (config->blocking != 0 || config->magic != 0xcafebeef) return nccl::kInvalidArgument;
  auto made = std::make_unique<nccl::Comm>();
  {
    const std::lock_guard lock(nccl_state().mutex);
    made->state->group = groups().at(id.internal);
  }
  made->state->rank = rank;
  made->copy_engines =
      config->version >= nccl::kCopyEngineVersion && config->cta_policy == nccl::kCtaPolicyZero;
  ++comms_alive;
  *comm = made.release();
  if (faults.init_fails != nccl::kSuccess) {
    (*comm)->error = faults.init_fails;
    return refuse(*comm, faults.init_fails, "Duplicate GPU detected");
  }
  Group& group = *(*comm)->state->group;
  const std::lock_guard lock(group.mutex);
  group.ranks = ranks;
  if (!faults.init_never_ends) ++group.joined;
  return nccl::kInProgress;
}

Result get_async_error(nccl::Comm* comm, Result* error) {
  Group& group = *comm->state->group;
  notice_lost_peer(comm);
  look_at_window(comm);
  *error = comm->error;
  if (comm->error != nccl::kSuccess) return nccl::kSuccess;
  const std::lock_guard lock(group.mutex);
  if (group.joined < group.ranks || comm->pending_window ||
      (comm->polls_left > 0 && --comm->polls_left > 0)) {
    *error = nccl::kInProgress;
  }
  return nccl::kSuccess;
}

Result finalize(nccl::Comm* comm) {
  if (const Result ready = check_ready(comm); ready != nccl::kSuccess) return ready;
  if (!comm->registrations.empty()) note_misuse("finalized with buffers still registered");
  note(*comm, "finalize");
  comm->finalized = true;
  comm->polls_left = 2;
  return nccl::kInProgress;
}

Result destroy(nccl::Comm* comm) {
  if (!comm->finalized) return nccl::kInvalidUsage;
  note(*comm, "destroy");
  --comms_alive;
  delete comm;
  return nccl::kSuccess;
}

Result abort(nccl::Comm* comm) {
  note(*comm, "abort");
  {
    Group& group = *comm->state->group;
    const std::lock_guard lock(group.mutex);
    if (faults_of(comm->state->rank).deaf_to_abort) {
      deaf().push_back(comm->state);
    } else {
      comm->state->aborted = true;
    }
    group.changed.notify_all();
  }
  --comms_alive;
  delete comm;
  return nccl::kSuccess;
}

const char* error_string(Result result) {
  switch (result) {
    case nccl::kSystemError:
      return "unhandled system error";
    case nccl::kRemoteError:
      return "remote process exited or there was a network error";
    case nccl::kInvalidUsage:
      return "invalid usage";
    case nccl::kInvalidArgument:
      return "invalid argument";
    default:
      return "another result";
  }
}

}  // namespace

const nccl::Api& nccl_stand_in() {
  static constexpr nccl::Api kApi = {
      .get_version =
          [](int* version) {
            *version = 22809;
            return nccl::kSuccess;
          },
      .get_error_string = error_string,
      .get_last_error =
          [](nccl::Comm* comm) { return comm == nullptr ? "" : comm->last_error.c_str(); },
      .get_unique_id = get_unique_id,
      .comm_init_rank_config = init,
      .comm_finalize = finalize,
      .comm_destroy = destroy,
      .comm_abort = abort,
      .comm_get_async_error = get_async_error,
      .all_reduce =
          [](const void* in, void* out, std::size_t count, nccl::DataType type, nccl::RedOp op,
             nccl::Comm* comm, Stream stream) {
            return collective(comm,
                              {.kind = Kind::kAllReduce, .count = count, .type = type, .op = op},
                              "all_reduce", in, out, stream);
          },
      .reduce_scatter =
          [](const void* in, void* out, std::size_t count, nccl::DataType type, nccl::RedOp op,
             nccl::Comm* comm, Stream stream) {
            return collective(
                comm, {.kind = Kind::kReduceScatter, .count = count, .type = type, .op = op},
                "reduce_scatter", in, out, stream);
          },
      .all_gather =
          [](const void* in, void* out, std::size_t count, nccl::DataType type, nccl::Comm* comm,
             Stream stream) {
            return collective(comm, {.kind = Kind::kAllGather, .count = count, .type = type},
                              "all_gather", in, out, stream);
          },
      .broadcast =
          [](const void* in, void* out, std::size_t count, nccl::DataType type, int root,
             nccl::Comm* comm, Stream stream) {
            return collective(
                comm, {.kind = Kind::kBroadcast, .count = count, .type = type, .root = root},
                "broadcast", in, out, stream);
          },
      .send = send,
      .receive = receive,
      .group_start = group_start,
      .group_end = group_end,
      .mem_alloc = give_memory,
      .mem_free = take_memory,
      .comm_register = register_local,
      .comm_deregister = deregister_local,
      .comm_window_register = register_window,
      .comm_window_deregister = deregister_window,
  };
  return kApi;
}

void let_deaf_go() {
  for (const auto& state : std::exchange(deaf(), {})) {
    const std::lock_guard lock(state->group->mutex);
    state->aborted = true;
    state->group->changed.notify_all();
  }
}

int live_nccl_comms() {
  return comms_alive;
}

int open_nccl_groups() {
  return groups_open;
}

}  // namespace testing
}  // namespace lockstep::comm
