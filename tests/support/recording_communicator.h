#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace lockstep::testing {

// Passes everything on to another communicator and notes what is launched, and how much is under
// way.
class RecordingCommunicator final : public comm::Communicator {
 public:
  struct Launch {
    comm::Collective collective;
    std::string label;
    int open_before;  // of the calls before it
    bool waited_for;  // to the end of wait_input
  };

  explicit RecordingCommunicator(std::unique_ptr<comm::Communicator> inner)
      : Communicator(inner->rank(), inner->world_size(), inner->backend(), inner->timeout(),
                     inner->device()),
        inner_(std::move(inner)) {}

  static std::unique_ptr<comm::Communicator> around(std::unique_ptr<comm::Communicator> inner) {
    return std::make_unique<RecordingCommunicator>(std::move(inner));
  }
  // Of a communicator that around() made.
  static RecordingCommunicator& of(comm::Communicator& communicator) {
    return dynamic_cast<RecordingCommunicator&>(communicator);
  }

  const std::vector<Launch>& launches() const { return launches_; }

  // Collectives that have been launched and not been waited for to the end.
  int open() const {
    return static_cast<int>(std::count_if(launches_.begin(), launches_.end(),
                                          [](const Launch& l) { return !l.waited_for; }));
  }

  std::size_t internal_bytes() const override { return inner_->internal_bytes(); }
  std::chrono::nanoseconds waited() const override { return inner_->waited(); }
  void record_to(comm::FlightRecorder* recorder) override { inner_->record_to(recorder); }

 private:
  std::uint64_t note(comm::Collective collective, std::string_view label, comm::Work work) {
    launches_.push_back({collective, std::string(label), open(), false});
    works_.push_back(work);
    return works_.size() - 1;
  }

  std::uint64_t do_all_reduce(core::ConstTensorView input, core::TensorView output,
                              comm::ReduceOp op, std::string_view label) override {
    return note(comm::Collective::kAllReduce, label, inner_->all_reduce(input, output, op, label));
  }
  std::uint64_t do_reduce_scatter(core::ConstTensorView input, core::TensorView output,
                                  comm::Output mode, std::string_view label) override {
    return note(comm::Collective::kReduceScatter, label,
                inner_->reduce_scatter(input, output, mode, label));
  }
  std::uint64_t do_all_gather(core::ConstTensorView input, core::TensorView output,
                              std::string_view label) override {
    return note(comm::Collective::kAllGather, label, inner_->all_gather(input, output, label));
  }
  std::uint64_t do_broadcast(core::TensorView data, int root, std::string_view label) override {
    return note(comm::Collective::kBroadcast, label, inner_->broadcast(data, root, label));
  }
  std::uint64_t do_all_to_all(core::ConstTensorView input, core::TensorView output,
                              std::string_view label) override {
    return note(comm::Collective::kAllToAll, label, inner_->all_to_all(input, output, label));
  }
  std::uint64_t do_barrier(std::string_view label) override {
    inner_->barrier(label);
    const std::uint64_t id = note(comm::Collective::kBarrier, label, {});
    launches_.back().waited_for = true;
    return id;
  }
  comm::SharedBuffer do_allocate(std::size_t bytes, const std::string& region,
                                 core::MemoryTracker& tracker, comm::BufferUse use) override {
    return inner_->allocate(bytes, region, tracker, use);
  }
  comm::SharedBuffer do_allocate_host(std::size_t bytes, const std::string& region,
                                      core::MemoryTracker& tracker) override {
    return inner_->allocate_host(bytes, region, tracker);
  }
  void do_work_on(const core::DeviceStream& stream) override { inner_->work_on(stream); }
  void do_wait_output(std::uint64_t id, comm::Deadline deadline) override {
    works_[id].wait_output(deadline);
  }
  void do_wait_input(std::uint64_t id, comm::Deadline deadline) override {
    works_[id].wait_input(deadline);
    launches_[id].waited_for = true;
  }
  bool do_done(std::uint64_t id) override { return works_[id].done(); }
  bool do_input_done(std::uint64_t id) override { return works_[id].input_done(); }
  void do_progress() override { inner_->progress(); }
  void do_abort(core::ErrorKind kind, std::string_view reason) noexcept override {
    inner_->abort(kind, reason);
  }
  bool serves(core::Device device) const override {
    return device.type == core::DeviceType::kCpu || device == this->device();
  }

  std::unique_ptr<comm::Communicator> inner_;
  std::vector<Launch> launches_;
  std::vector<comm::Work> works_;  // of the inner one
};

}  // namespace lockstep::testing
