#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/stand_in/machine.h"
#include "core/cuda_module.h"
#include "core/device_runtime.h"
#include "ops/cuda/stand_in_bodies.h"
#include "ops/op_bodies.h"
#include "tests/support/host_tensor.h"

// Runs an op on the CPU and on a device on the same random inputs, and compares. Devices are the
// stand-in, always, and the GPU where there is one.
namespace lockstep::test {

struct TestDevice {
  std::string name;
  core::DeviceRef ref;
  const ops::OpBodies* bodies = nullptr;
  bool stand_in = false;
};

// LOCKSTEP_TEST_ONLY_GPU=1 leaves the stand-in out, as for a sanitizer of GPU code; then there must
// be a GPU.
inline bool only_gpu() {
  return std::getenv("LOCKSTEP_TEST_ONLY_GPU") != nullptr;
}

// LOCKSTEP_TEST_SMALL=1 leaves out what takes minutes where every access is watched.
inline bool only_small() {
  return std::getenv("LOCKSTEP_TEST_SMALL") != nullptr;
}

// Why no GPU takes part; empty where one does.
inline std::string why_no_gpu() {
  const core::CudaModule module = core::load_cuda_module();
  if (module.description == nullptr) return "no GPU takes part: " + module.why_absent;
  const std::string why = core::why_no_device(module.runtime());
  return why.empty() ? "" : "no GPU takes part: " + why;
}

inline const std::vector<TestDevice>& devices_under_test() {
  static const std::vector<TestDevice> devices = [] {
    std::vector<TestDevice> found;
    if (!only_gpu()) {
      found.push_back({"stand-in", core::open_device(core::cuda::stand_in_runtime(), 0),
                       &ops::cuda::stand_in_op_bodies(), true});
    }
    if (why_no_gpu().empty()) {
      const core::CudaModule module = core::load_cuda_module();
      found.push_back(
          {"cuda:0", core::open_device(module.runtime(), 0), &ops::cuda_op_bodies(module), false});
    }
    return found;
  }();
  return devices;
}

inline const std::vector<core::DType>& device_dtypes() {
  static const std::vector<core::DType> dtypes = {core::DType::kF32, core::DType::kBF16,
                                                  core::DType::kF16};
  return dtypes;
}

enum class Side { kCpu, kDevice };

// A matrix on both sides.
class Operand {
 public:
  Operand(core::MemoryTracker& memory, core::DeviceRef device, HostTensor initial)
      : cpu_(initial), device_(std::move(initial)) {
    const core::TensorView view = device_.view();
    const auto rows = static_cast<std::size_t>(view.rows());
    bytes_ = rows * static_cast<std::size_t>(view.row_stride()) * core::size_of(view.dtype());
    buffer_ = core::Buffer(memory, "test", bytes_, device);
    start_.resize(bytes_);
    std::memcpy(start_.data(), view.raw(), bytes_);
    device_ref_ = device;
  }

  core::TensorView operator()(Side side) {
    if (side == Side::kCpu) return cpu_.view();
    const core::TensorView like = device_.view();
    return {buffer_.data(), like.dtype(), like.shape(), like.row_stride(), device_ref_.device};
  }
  core::TensorView vector(Side side) {
    const core::TensorView view = (*this)(side);
    return {view.raw(), view.dtype(), core::Shape{view.elements()}, view.device()};
  }

  void upload(const core::DeviceStream& stream) {
    stream.to_device(buffer_.data(), start_.data(), bytes_);
  }
  // What the device holds now.
  std::vector<unsigned char> download(const core::DeviceStream& stream) {
    std::vector<unsigned char> bytes(bytes_);
    stream.to_host(bytes.data(), buffer_.data(), bytes_);
    std::memcpy(device_.view().raw(), bytes.data(), bytes_);
    return bytes;
  }

  HostTensor& cpu() { return cpu_; }
  HostTensor& device() { return device_; }

 private:
  HostTensor cpu_;
  HostTensor device_;  // a copy of what the device holds
  std::size_t bytes_ = 0;
  std::vector<unsigned char> start_;
  core::Buffer buffer_;
  core::DeviceRef device_ref_;
};

// One comparison. Inputs are fresh random numbers, outputs NaN until they are written.
class Harness {
 public:
  explicit Harness(const TestDevice& device, ops::Determinism determinism = ops::Determinism::kRun)
      : device_(device),
        cpu_context_(1, memory_),
        device_context_(1, memory_, device.ref, *device.bodies, determinism) {}

  Operand& input(core::DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0,
                 double mean = 0.0, double deviation = 1.0) {
    HostTensor tensor(dtype, rows, cols, gap);
    tensor.randomize(++seed_, mean, deviation);
    return add(std::move(tensor));
  }
  // A vector of these values, rounded to the dtype.
  Operand& input(core::DType dtype, const std::vector<double>& values) {
    HostTensor tensor(dtype, 1, static_cast<std::int64_t>(values.size()));
    tensor.set(values);
    return add(std::move(tensor));
  }
  Operand& output(core::DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0) {
    HostTensor tensor(dtype, rows, cols, gap);
    tensor.set(std::vector<double>(static_cast<std::size_t>(rows * cols),
                                   std::numeric_limits<double>::quiet_NaN()));
    return add(std::move(tensor));
  }

  using Body = std::function<void(ops::OpContext&, Side)>;

  // On the CPU once and on the device twice, from the same beginnings: equal bits are expected of
  // the device (unless they may depend on chance), on the stand-in also when its threads run in the
  // other order.
  void run(const Body& body) {
    body(cpu_context_, Side::kCpu);
    const auto first = run_on_device(body, false);
    const auto second = run_on_device(body, device_.stand_in);
    if (device_context_.determinism() == ops::Determinism::kNone) return;
    ASSERT_EQ(first, second) << device_.name << ": two runs gave different bits";
  }

  void expect_close(Operand& operand, double factor, const std::string& what) {
    const std::string name = device_.name + ", " + what;
    EXPECT_TRUE(operand.device().gaps_intact()) << name << ": wrote between the rows";
    const core::DType dtype = operand.cpu().view().dtype();
    test::expect_close(operand.device().values(), operand.cpu().values(),
                       factor * tolerance_of(dtype), name);
  }
  void expect_equal(Operand& operand, const std::string& what) {
    EXPECT_TRUE(operand.device() == operand.cpu()) << device_.name << ", " << what;
  }

  const TestDevice& device() const { return device_; }
  ops::OpContext& context(Side side) { return side == Side::kCpu ? cpu_context_ : device_context_; }
  core::MemoryTracker& memory() { return memory_; }

 private:
  Operand& add(HostTensor tensor) {
    operands_.push_back(std::make_unique<Operand>(memory_, device_.ref, std::move(tensor)));
    return *operands_.back();
  }

  std::vector<std::vector<unsigned char>> run_on_device(const Body& body, bool reverse) {
    for (const auto& operand : operands_)
      operand->upload(device_context_.stream());
    core::cuda::stand_in_settings().reverse = reverse;
    body(device_context_, Side::kDevice);
    core::cuda::stand_in_settings().reverse = false;
    std::vector<std::vector<unsigned char>> contents;
    for (const auto& operand : operands_)
      contents.push_back(operand->download(device_context_.stream()));
    return contents;
  }

  const TestDevice& device_;
  core::MemoryTracker memory_;
  ops::OpContext cpu_context_;
  ops::OpContext device_context_;
  std::deque<std::unique_ptr<Operand>> operands_;
  std::uint64_t seed_ = 0;
};

// Calls f(device, dtype) for all pairs.
template <typename F>
void for_each_device(F&& f) {
  for (const TestDevice& device : devices_under_test())
    for (const core::DType dtype : device_dtypes())
      f(device, dtype);
}

}  // namespace lockstep::test
