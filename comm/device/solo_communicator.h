#pragma once

#include "comm/device/device_communicator.h"
#include "comm/device/device_works.h"

namespace lockstep::comm {

// A group of one rank on a device: every collective is a copy on the present stream, or nothing
// when it is in place. The host never waits.
class SoloCommunicator final : public DeviceCommunicator {
 public:
  // host: of one rank.
  SoloCommunicator(std::unique_ptr<Communicator> host, core::DeviceRef device);

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
  void do_wait_output(std::uint64_t id, Deadline deadline) override;
  void do_wait_input(std::uint64_t id, Deadline deadline) override;
  bool do_done(std::uint64_t id) override;
  bool do_input_done(std::uint64_t id) override;
  void do_progress() override;

  std::uint64_t copy(Collective collective, const core::ConstTensorView& input,
                     const core::TensorView& output, std::string_view label);

  DeviceWorks works_;
};

}  // namespace lockstep::comm
