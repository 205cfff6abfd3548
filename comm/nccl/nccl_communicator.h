#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "comm/device/device_communicator.h"
#include "comm/device/device_works.h"
#include "comm/device/event_pool.h"
#include "comm/nccl/nccl_api.h"
#include "comm/nccl/nccl_handle.h"
#include "comm/nccl/nccl_last_resort.h"
#include "comm/nccl/nccl_options.h"

namespace lockstep::comm {

class NcclMemory;

// The ranks of `host`, each with its own device, over NCCL. Collective. Throws Error(kConfig) when
// the environment says otherwise than options.repeatable or options.buffers, or this NCCL lacks
// what the buffers need, and Error(kCommunication) in NCCL's words when the group cannot be made,
// all of it on all ranks.
//
// Beyond the contract of Communicator:
// - Sums are NCCL's: in the wire type, in an order of its own. Ranks agree bit for bit with each
//   other, and with themselves in another run when options.repeatable says so.
// - Collectives on the device run on a stream of their own. Their waits are events and never make
//   the host wait; deadlines given to them mean nothing. A launch may wait for the peers' hosts the
//   first times, while NCCL connects what it needs.
// - The timeout counts from when this rank's device begins a collective. A thread looks several
//   times a second for what a host that has run ahead, or waits for its stream, would not see:
//   collectives that do not end, errors of NCCL, peers that died, a group that failed. It then
//   frees the device (ncclCommAbort), so that whoever waits for the stream goes on, and the next
//   call throws the cause. It names the ranks that have not entered or, of the ranks of this node,
//   whose device has not come to it.
// - What the ranks enter is compared by the hosts as they come by, while data may already move.
// - With NcclBuffers other than kPlain, memory of allocate() on the device is NCCL's and registered
//   (nccl_memory.h). Then all ranks' views of one call lie in buffers of the same allocate(), at
//   the same offset but for a rank's own part in place, or none of them does; mixed, NCCL's
//   behaviour is undefined. allocate() throws Error(kCommunication) in NCCL's words when
//   registering fails on any rank, and Error(kConfig) when NCCL will not do it here, both on all
//   ranks.
// - Of kSymmetric: only what is never summed lies in symmetric windows, for two reasons. NCCL sums
//   in windows by kernels of their own, which neither NCCL_ALGO nor NCCL_PROTO rules, so that
//   options.repeatable would say nothing; and its rule for copy engines (CTA policy "zero") is one
//   of the whole communicator, but they only copy: with it reduce-scatters go as they go with
//   kRegistered. A second communicator for gathers would cost its buffers and connections once more
//   and an order between the two, for nothing.
// - Several small all-gathers are not fused in one group of NCCL: a group ends as a whole, so that
//   whoever needs the first bucket would wait for the last one, on slow links the longer, to save
//   launches that the host makes ahead of the device anyway; and the flight recorder could not tell
//   in which bucket a group hangs.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     core::DeviceRef device, const nccl::Api& api,
                                                     const NcclOptions& options);

class NcclCommunicator final : public DeviceCommunicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, core::DeviceRef device, const nccl::Api& api,
                   const NcclOptions& options);
  ~NcclCommunicator() override;

  void record_to(FlightRecorder* recorder) override;

 private:
  using Call = std::function<nccl::Result(nccl::Comm*)>;

  // A collective that the device has not been seen to end. It stays in its place until then.
  struct Flight {
    std::uint64_t sequence = 0;
    std::string name;  // "reduce_scatter #812 (block.7)"
    Work announced;
    core::DeviceEvent begun;
    core::DeviceEvent ended;
    bool issued = false;               // it is on the stream, and `ended` recorded behind it
    std::optional<Deadline> begun_at;  // when it was first seen to have begun
  };

  // A flight that has taken too long, as the message tells it.
  struct Stuck {
    std::uint64_t sequence;
    std::string name;
    Work announced;
    double seconds;
  };

  std::uint64_t do_all_reduce(core::ConstTensorView input, core::TensorView output, ReduceOp op,
                              std::string_view label) override;
  std::uint64_t do_reduce_scatter(core::ConstTensorView input, core::TensorView output, Output mode,
                                  std::string_view label) override;
  std::uint64_t do_all_gather(core::ConstTensorView input, core::TensorView output,
                              std::string_view label) override;
  std::uint64_t do_broadcast(core::TensorView data, int root, std::string_view label) override;
  std::uint64_t do_all_to_all(core::ConstTensorView input, core::TensorView output,
                              std::string_view label) override;
  std::uint64_t do_barrier(std::string_view label) override;
  SharedBuffer do_allocate(std::size_t bytes, const std::string& region,
                           core::MemoryTracker& tracker, BufferUse use) override;
  SharedBuffer do_allocate_host(std::size_t bytes, const std::string& region,
                                core::MemoryTracker& tracker) override;
  void do_wait_output(std::uint64_t id, Deadline deadline) override;
  void do_wait_input(std::uint64_t id, Deadline deadline) override;
  bool do_done(std::uint64_t id) override;
  bool do_input_done(std::uint64_t id) override;
  void do_progress() override;
  void do_abort(core::ErrorKind kind, std::string_view reason) noexcept override;
  void do_measure_times() override;

  // body() with the host communicator locked; when it throws and the group has failed, the device
  // is freed too.
  template <typename Body>
  auto with_host(Body&& body) {
    const std::lock_guard lock(host_mutex_);
    try {
      return body();
    } catch (...) {
      if (roll_call_of_host().failed()) handle_->abort();
      throw;
    }
  }

  std::uint64_t launch(const Entry& entry, const Call& call);
  Flight& take_off(const Entry& entry);
  void issue(const Flight& flight, const Call& call);
  void count_bytes(const Entry& entry);

  void connect(const NcclOptions& options);
  nccl::UniqueId agree_on_id();
  void leave();
  void finish(NcclState asked, const std::string& what);
  std::optional<core::Error> register_memory(NcclMemory& memory, const std::string& region,
                                             bool as_window);
  [[noreturn]] void fail(const std::string& text);

  // The watch (nccl_watch.cc).
  void start_watch();
  void stop_watch();
  void watch();
  void look() noexcept;
  void look_at_device();
  void look_at_flights();
  void complete_flights();
  std::string first_flight();
  std::optional<Stuck> find_stuck();
  void diagnose(Stuck& stuck);
  [[noreturn]] void fail_late(Work announced, const std::string& text);

  const nccl::Api& api_;
  NcclBuffers buffers_;
  std::shared_ptr<NcclHandle> handle_;  // with buffers that may live longer
  core::DeviceStream stream_;
  NcclLastResort last_resort_;
  core::DeviceEvent ready_;  // where the present stream was at the last launch
  DeviceWorks works_;

  std::timed_mutex host_mutex_;  // of the host communicator, works_ and the flight recorder
  std::mutex flights_mutex_;     // of what follows
  EventPool events_;
  std::deque<Flight> flights_;

  std::mutex watch_mutex_;
  std::condition_variable watch_changed_;
  bool watch_stop_ = false;
  std::thread watch_;
};

}  // namespace lockstep::comm
