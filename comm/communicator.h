#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "comm/comm_times.h"
#include "comm/shared_buffer.h"
#include "comm/work.h"
#include "core/device_runtime.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/tensor.h"

namespace lockstep::comm {

class FlightRecorder;
class RollCall;

enum class Collective : std::uint8_t {
  kBarrier,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kAllToAll
};
constexpr std::size_t kCollectives = 6;
std::string_view name_of(Collective collective);         // "reduce_scatter"
std::optional<CommKind> kind_of(Collective collective);  // none: no part of a training step

enum class ReduceOp : std::uint8_t { kSum, kMax, kMin };

// What a reduce-scatter does with the present content of its output.
enum class Output : std::uint8_t { kOverwrite, kAccumulate };

// What collectives do with a buffer, for a backend that prepares its memory for them.
enum class BufferUse : std::uint8_t {
  kReduced,  // anything
  kCopied    // nothing is summed there: all_gather, broadcast, all_to_all, in or out
};

// What one rank moved. Bytes are payload that crossed from one rank to another: a rank's own part
// and copies through internal staging do not count.
struct CollectiveStats {
  std::uint64_t calls = 0;
  std::uint64_t bytes_sent = 0;      // of this rank's input, read by other ranks
  std::uint64_t bytes_received = 0;  // of other ranks' input, read by this rank
};

struct CommunicatorStats {
  std::array<CollectiveStats, kCollectives> by_collective;

  const CollectiveStats& operator[](Collective c) const {
    return by_collective[static_cast<std::size_t>(c)];
  }
};

// One rank's end of a group of N = world_size() ranks.
//
// Ordering. All ranks call the same collectives in the same order with the same counts, dtypes,
// root, reduction and label. Each call takes the next sequence number (from 1). What a rank enters
// is compared with what its peers entered under the same number before any data is touched; a
// mismatch is an Error(kCommunication) that names the rank and both operations.
//
// Asynchrony. A call that returns Work launches: it tells the peers that this rank's input is
// ready and returns. There are no threads; reading the peers' inputs happens inside Work::wait*,
// progress(), and any later call, strictly in launch order. Between launch and the end of
// wait_input the input must not change; between launch and the end of wait_output the output must
// not be read, and until the end of wait_input not be written. Memory that several collectives in
// flight share follows the same rule.
// Calls without Work (barrier, *_small, *_bytes, allocate) block until this rank has its result.
//
// Memory. Views are contiguous, on the CPU or on the communicator's device, those of one call on
// the same one, of any alignment of their dtype. Empty views (0 elements) are legal everywhere.
// Views inside a SharedBuffer of this communicator are read by the peers in place (zero copy);
// other memory gives the same bits through an internal staging area, chunk by chunk, copied while
// the owner waits or makes progress.
//
// Arithmetic. Sums of fp32, bf16, fp16 are taken in fp32 and sums of fp64 in fp64, element by
// element, in rank order from left to right, rounded once to the output dtype: the same bits on
// every backend, for every placement of ranks and every split into chunks. Integers wrap.
// dtypes of reductions: fp32, bf16, fp16, fp64, i32, i64, u8; of the others: any.
//
// Devices. A communicator made for a device stands on one for the host. Views on the CPU, small and
// bytes exchanges, barrier and abort are the host's, as described above; they and collectives on
// the device may be mixed, in one order on all ranks. On device views the work of a stream takes
// the host's place; work_on(stream) names the present one, and:
// - a collective reads and writes memory after everything that the present stream was given before
//   the call;
// - Work::wait_output and wait_input let everything that the stream present at *that* call is given
//   later find the condition met. Whether the host waits too depends on the backend: never with one
//   rank, nor with nccl; where data goes through host memory (mpi, local) it may, in wait_*, done,
//   progress and later calls, for its own device and for its peers;
// - memory that a stream may touch is still in use: before the host reads or frees it, the stream
//   is synchronized too;
// - reduce_scatter needs kOverwrite and an output of the wire dtype: this layer computes nothing on
//   a device, so the caller adds and widens;
// - the bits are those of the host backends, but for sums of nccl (make_nccl_communicator).
//
// Errors. A wrong argument is Error(kInternal), thrown before anything is launched. A peer that
// does not come within the timeout, has died, left or called abort(), or a mismatch, is an Error
// with the first cause (kCommunication, or the kind given to abort). After any such error the
// communicator is aborted: every waiting peer fails at once with the same cause, and every later
// call on any rank throws it again.
//
// Threads. One thread at a time; abort() may be called from any thread.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }
  std::string_view backend() const { return backend_; }  // "self", "local", "mpi", "nccl"
  std::chrono::milliseconds timeout() const { return timeout_; }
  core::Device device() const { return device_; }  // of allocate(); the CPU for host backends

  // From now on collectives on device views are ordered by `stream`, of device(), which must live
  // until another is named and every collective launched on it has been waited for.
  // Error(kInternal) where there is no such device. Until the first call, device views are refused.
  void work_on(const core::DeviceStream& stream);

  // output[i] = sum (or max, min) over ranks of input[i]. input and output: n elements of the same
  // dtype; in place: the same memory. Every rank gets the same bits.
  Work all_reduce(core::ConstTensorView input, core::TensorView output, ReduceOp op,
                  std::string_view label);

  // output[i] = ((base + in_0) + in_1) + ... with in_r = rank r's input[rank() * shard + i] and
  // base = output[i] under kAccumulate, absent under kOverwrite. input: N * shard elements of the
  // wire dtype; output: shard elements of the wire dtype, or fp32 when the wire is bf16 or fp16.
  // In place: output may be this rank's own part of input (same dtype, kOverwrite).
  Work reduce_scatter(core::ConstTensorView input, core::TensorView output, Output mode,
                      std::string_view label);

  // output[r * shard + i] = rank r's input[i]. input: shard elements; output: N * shard elements of
  // the same dtype. In place: input may be this rank's own part of output.
  Work all_gather(core::ConstTensorView input, core::TensorView output, std::string_view label);

  // data on every rank = data of rank `root`.
  Work broadcast(core::TensorView data, int root, std::string_view label);

  // output[r * count + i] = rank r's input[rank() * count + i]. Both N * count elements of the same
  // dtype; never in place.
  Work all_to_all(core::ConstTensorView input, core::TensorView output, std::string_view label);

  // Returns once every rank has entered.
  void barrier(std::string_view label);

  // Every rank's value, by rank. For small host structs (reports, sizes); blocking.
  template <typename T>
  std::vector<T> all_gather_small(const T& value, std::string_view label) {
    static_assert(std::is_trivially_copyable_v<T>, "only plain bytes travel");
    std::vector<T> all(static_cast<std::size_t>(world_size_));
    gather_bytes(std::as_bytes(std::span<const T>(&value, 1)),
                 std::as_writable_bytes(std::span(all)), label);
    return all;
  }

  // The same for a string of bytes of any length, which may differ between ranks; blocking.
  std::vector<std::string> all_gather_bytes(std::string_view bytes, std::string_view label);

  // Collective: memory of device(), `bytes` bytes on each rank (the sizes may differ, 0 is legal),
  // which peers of the same node read in place where the backend can. Counted in `tracker`, which
  // must outlive the buffer, under `region`. If any rank has no memory left, every rank throws
  // Error(kOutOfMemory) naming the rank that asked for most. Freeing is not collective, but the
  // rules for inputs hold: wait_input first. use: the same on all ranks.
  SharedBuffer allocate(std::size_t bytes, const std::string& region, core::MemoryTracker& tracker,
                        BufferUse use = BufferUse::kReduced);
  // The same in host memory, whatever device() is.
  SharedBuffer allocate_host(std::size_t bytes, const std::string& region,
                             core::MemoryTracker& tracker);

  // Does what work is ready (reading inputs that peers have posted) without waiting. Cheap enough
  // to call between layers; throws what a wait would throw.
  void progress();

  // Fails every rank's present and future calls with `reason`, prefixed by this rank's number. The
  // first abort of the group wins. Never blocks or throws.
  void abort(core::ErrorKind kind, std::string_view reason) noexcept;

  virtual const CommunicatorStats& stats() const { return stats_; }

  // How long this rank has waited for its peers so far: time inside Work::wait* and the blocking
  // calls in which there was nothing to copy or to sum.
  virtual std::chrono::nanoseconds waited() const { return waited_; }

  // Measures from now on how long this rank communicates and how much of that is exposed; before,
  // that costs nothing. Small exchanges (all_gather_small, all_gather_bytes) and barriers are left
  // out.
  // On a device, by events: a collective takes from when its input is ready and those before it are
  // over until its output is there, waiting for late peers included. Exposed is the part of that in
  // which the present stream had nothing to do but wait in Work::wait_*, or, where data goes
  // through host memory, for a host that was in the communicator. The rest is hidden.
  // On the host, by a clock: exposed is the time inside Work::wait_*. Hidden is what is done
  // without waiting, in launches and in progress(); that has no thread of its own, so it takes the
  // rank's time, but never stands still. progress() counts as what was launched last.
  void measure_times();
  // What has ended since the last call, or since measure_times(). Never waits: what is under way is
  // left for the next call. With one rank there is nothing to tell.
  CommTimes take_times();

  // Notes every collective from now on in `recorder` (not owned; null: in none).
  virtual void record_to(FlightRecorder* recorder) { recorder_ = recorder; }

  // Of communicators of the host, for those of a device that stand on them; null for the others.
  virtual RollCall* roll_call() { return nullptr; }

  // Memory the backend itself holds on this rank (staging, control block), in bytes.
  virtual std::size_t internal_bytes() const = 0;

 protected:
  Communicator(int rank, int world_size, std::string_view backend,
               std::chrono::milliseconds timeout, core::Device device = {});

  Work work_of(std::uint64_t id) { return Work(*this, id); }
  Deadline default_deadline() const { return std::chrono::steady_clock::now() + timeout_; }
  FlightRecorder* recorder() const { return recorder_; }
  void add_waited(std::chrono::nanoseconds time) { waited_ += time; }
  CollectiveStats& count(Collective c) { return stats_.by_collective[static_cast<std::size_t>(c)]; }

 private:
  friend class Work;

  // Backends execute; arguments are already checked. Each do_<collective> returns an id for Work.
  virtual std::uint64_t do_all_reduce(core::ConstTensorView input, core::TensorView output,
                                      ReduceOp op, std::string_view label) = 0;
  virtual std::uint64_t do_reduce_scatter(core::ConstTensorView input, core::TensorView output,
                                          Output mode, std::string_view label) = 0;
  virtual std::uint64_t do_all_gather(core::ConstTensorView input, core::TensorView output,
                                      std::string_view label) = 0;
  virtual std::uint64_t do_broadcast(core::TensorView data, int root, std::string_view label) = 0;
  virtual std::uint64_t do_all_to_all(core::ConstTensorView input, core::TensorView output,
                                      std::string_view label) = 0;
  virtual std::uint64_t do_barrier(std::string_view label) = 0;
  virtual SharedBuffer do_allocate(std::size_t bytes, const std::string& region,
                                   core::MemoryTracker& tracker, BufferUse use) = 0;
  // A host backend has no device to work on, and no other memory than the host's.
  virtual void do_work_on(const core::DeviceStream& stream);
  virtual SharedBuffer do_allocate_host(std::size_t bytes, const std::string& region,
                                        core::MemoryTracker& tracker);
  virtual void do_wait_output(std::uint64_t id, Deadline deadline) = 0;
  virtual void do_wait_input(std::uint64_t id, Deadline deadline) = 0;
  virtual bool do_done(std::uint64_t id) = 0;
  virtual bool do_input_done(std::uint64_t id) = 0;
  virtual void do_progress() = 0;
  virtual void do_abort(core::ErrorKind kind, std::string_view reason) noexcept = 0;
  virtual bool serves(core::Device device) const = 0;
  // Here: by the host's clock.
  virtual void do_measure_times();
  virtual CommTimes do_take_times();

  Work launched(Collective collective, std::uint64_t id);
  Work launch_all_gather(core::ConstTensorView input, core::TensorView output,
                         std::string_view label);
  // Where the host's time goes that is spent on launching a collective, or on waiting for it; null:
  // nowhere.
  double* hidden_in(CommKind kind);
  double* exposed_in(std::optional<CommKind> kind);
  void check_view(Collective collective, const core::ConstTensorView& view, const char* name,
                  std::string_view label) const;
  void check_views(Collective collective, const core::ConstTensorView& input,
                   const core::ConstTensorView& output, std::string_view label) const;
  void gather_bytes(std::span<const std::byte> mine, std::span<std::byte> all,
                    std::string_view label);

  int rank_;
  int world_size_;
  std::string backend_;
  std::chrono::milliseconds timeout_;
  core::Device device_;
  CommunicatorStats stats_{};
  std::chrono::nanoseconds waited_{0};
  FlightRecorder* recorder_ = nullptr;
  std::unique_ptr<CommTimes> times_;  // by the host's clock; null: not measured
  CommKind last_launched_ = CommKind::kReduce;
};

}  // namespace lockstep::comm
