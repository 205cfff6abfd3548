#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "comm/exchange/backoff.h"
#include "comm/exchange/node.h"
#include "comm/exchange/operation.h"
#include "comm/exchange/remote_peers.h"
#include "comm/roll_call.h"

namespace lockstep::comm {

// Who is in the group, as this rank sees it.
struct Group {
  int rank = 0;
  int world_size = 1;
  std::vector<int> node_rank;      // by world rank; -1: on another node
  std::vector<std::string> hosts;  // by world rank
  bool crowded = false;            // more ranks on this node than cores
};

// The engine of the CPU backends: every collective is an exchange of slices in which each rank
// reads what it needs from its peers' memory (same node) or from their messages (other nodes).
// Backends differ in the Node and the RemotePeers they hand in. The protocol is described in
// control_block.h.
class ExchangeCommunicator final : public Communicator, private RollCall {
 public:
  // remote: null when all ranks are on one node.
  ExchangeCommunicator(std::string_view backend, std::chrono::milliseconds timeout, Group group,
                       std::unique_ptr<Node> node, std::unique_ptr<RemotePeers> remote);
  ~ExchangeCommunicator() override;

  std::size_t internal_bytes() const override;
  RollCall* roll_call() override { return this; }

 private:
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
  void do_wait_output(std::uint64_t id, Deadline deadline) override;
  void do_wait_input(std::uint64_t id, Deadline deadline) override;
  bool do_done(std::uint64_t id) override;
  bool do_input_done(std::uint64_t id) override;
  void do_progress() override;
  void do_abort(core::ErrorKind kind, std::string_view reason) noexcept override;
  bool serves(core::Device device) const override;

  // The roll call (roll_call.cc).
  Announced announce(const Entry& entry) override;
  void note_begun(std::uint64_t sequence) noexcept override;
  std::vector<int> ranks_not_begun(std::uint64_t sequence) const override;
  void look_for_dead_peers() override;
  bool failed() const noexcept override;
  std::string failure() const override;
  void fail_with(core::ErrorKind kind, std::string_view text) noexcept override;
  std::string describe_rank(int rank) const override;

  Operation make_operation(Collective collective, core::DType dtype, std::int64_t elements,
                           std::string_view label) const;
  std::uint64_t enqueue(Operation operation);
  Operation& at(std::uint64_t index) { return queue_[index - queue_begin_]; }
  std::uint64_t queue_end() const { return queue_begin_ + queue_.size(); }
  RankSlot& own_slot() const { return control_.slot(node_->rank()); }

  // Does all that can be done without waiting; whether anything was.
  bool advance();
  bool post_ready();
  bool stage_ready();
  bool read_ready();
  bool ring_has_room(std::uint64_t index) const;
  void post(Operation& operation);
  void stage_chunk(const Operation& operation, std::uint64_t chunk);
  bool peers_entered(Operation& operation);
  bool all_in_place(const Operation& operation) const;
  void check_records(const Operation& operation);
  bool read_chunk(Operation& operation, std::uint64_t chunk);
  const std::byte* find_source(const Operation& operation, int source, std::uint64_t chunk);
  void finish_read(const Operation& operation);
  void note_entered(const Operation& operation);
  void note_completed(const Operation& operation);
  void retire();

  const Record* record_of(int rank, std::uint64_t index) const;
  bool output_complete(std::uint64_t id) const { return read_ > id; }
  bool input_reusable(std::uint64_t id);

  enum class Condition { kOutput, kInput };
  void wait_for(Condition condition, std::uint64_t id, Deadline deadline);
  bool holds(Condition condition, std::uint64_t id);

  // Health and diagnosis (diagnosis.cc).
  void raise_failure();
  [[noreturn]] void fail(core::ErrorKind kind, const std::string& text);
  [[noreturn]] void fail_for_death(int node_rank, const std::string& noticed);
  void check_peers(Condition condition, std::uint64_t id, Deadline begin, Deadline deadline);
  std::vector<int> ranks_not_entered(std::uint64_t index) const;
  std::vector<int> ranks_holding_up(Condition condition, std::uint64_t id, std::string& what);
  std::string last_completed(int rank) const;

  Group group_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<RemotePeers> remote_;
  ControlBlock control_;
  std::thread::id owner_;
  bool spread_ = false;  // the failure has been sent to other nodes

  std::uint64_t sequence_ = 0;  // collectives entered
  std::uint64_t tickets_ = 0;   // chunks numbered so far
  // Operations queue_begin_, queue_begin_ + 1, ...; those before the first are done with. posted_,
  // staged_ and read_ are the operations up to which (exclusive) each part of the work is done.
  std::deque<Operation> queue_;
  std::uint64_t queue_begin_ = 0;
  std::uint64_t posted_ = 0;
  std::uint64_t staged_ = 0;
  std::uint64_t read_ = 0;
  std::vector<const std::byte*> sources_;  // scratch of read_chunk
};

}  // namespace lockstep::comm
