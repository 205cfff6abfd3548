#include "tests/support/recorded_nccl.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "tests/comm/nccl_meeting.h"
#include "tests/comm/nccl_stand_in.h"
#include "tests/support/trace_recording.h"

namespace lockstep::testing {

namespace {

namespace nccl = comm::nccl;
using Stream = nccl::Api::Stream;

const nccl::Api& plain() {
  return comm::testing::nccl_stand_in();
}

Access bytes_at(const void* memory, std::size_t count, nccl::DataType type, bool writes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  return {begin, begin + count * comm::testing::size_of(type), writes};
}

// Nothing is noted where nobody records.
std::size_t ranks() {
  const TraceRecording* const recording = TraceRecording::of_this_thread();
  return recording == nullptr ? 1 : recording->ranks();
}

void note(const char* name, Stream stream, std::vector<Access> touches) {
  TraceRecording* const recording = TraceRecording::of_this_thread();
  if (recording == nullptr) return;
  recording->work(CallKind::kCollective, name, recording->collective_label(), stream,
                  std::move(touches));
}

nccl::Result all_reduce(const void* send, void* receive, std::size_t count, nccl::DataType type,
                        nccl::RedOp op, nccl::Comm* comm, Stream stream) {
  note("all_reduce", stream,
       {bytes_at(send, count, type, false), bytes_at(receive, count, type, true)});
  return plain().all_reduce(send, receive, count, type, op, comm, stream);
}

nccl::Result reduce_scatter(const void* send, void* receive, std::size_t count, nccl::DataType type,
                            nccl::RedOp op, nccl::Comm* comm, Stream stream) {
  note("reduce_scatter", stream,
       {bytes_at(send, count * ranks(), type, false), bytes_at(receive, count, type, true)});
  return plain().reduce_scatter(send, receive, count, type, op, comm, stream);
}

// What lies in its place already is not written.
nccl::Result all_gather(const void* send, void* receive, std::size_t count, nccl::DataType type,
                        nccl::Comm* comm, Stream stream) {
  const Access own = bytes_at(send, count, type, false);
  const Access all = bytes_at(receive, count * ranks(), type, true);
  std::vector<Access> touches = {own};
  if (own.overlaps(all)) {
    touches.push_back({all.begin, own.begin, true});
    touches.push_back({own.end, all.end, true});
  } else {
    touches.push_back(all);
  }
  std::erase_if(touches, [](const Access& access) { return access.begin >= access.end; });
  note("all_gather", stream, std::move(touches));
  return plain().all_gather(send, receive, count, type, comm, stream);
}

nccl::Result broadcast(const void* send, void* receive, std::size_t count, nccl::DataType type,
                       int root, nccl::Comm* comm, Stream stream) {
  note("broadcast", stream,
       {bytes_at(send, count, type, false), bytes_at(receive, count, type, true)});
  return plain().broadcast(send, receive, count, type, root, comm, stream);
}

nccl::Result send(const void* data, std::size_t count, nccl::DataType type, int peer,
                  nccl::Comm* comm, Stream stream) {
  note("send", stream, {bytes_at(data, count, type, false)});
  return plain().send(data, count, type, peer, comm, stream);
}

nccl::Result receive(void* data, std::size_t count, nccl::DataType type, int peer, nccl::Comm* comm,
                     Stream stream) {
  note("receive", stream, {bytes_at(data, count, type, true)});
  return plain().receive(data, count, type, peer, comm, stream);
}

}  // namespace

const nccl::Api& recorded_nccl() {
  static const nccl::Api api = [] {
    nccl::Api recorded = plain();
    recorded.all_reduce = all_reduce;
    recorded.reduce_scatter = reduce_scatter;
    recorded.all_gather = all_gather;
    recorded.broadcast = broadcast;
    recorded.send = send;
    recorded.receive = receive;
    return recorded;
  }();
  return api;
}

}  // namespace lockstep::testing
