#include "ops/op_bodies.h"
#include "tests/ops/hash_cases.h"
#include "tests/support/device_harness.h"

// Part 4 of the table of ops on a device: hashes, which must be those of xxHash.
namespace lockstep::ops {
namespace {

using test::HashCases;
using test::Messages;
using test::TestDevice;

// A base in the memory of a device, `shift` bytes behind an aligned address.
class DeviceBase {
 public:
  DeviceBase(const TestDevice& device, const std::vector<unsigned char>& bytes, std::size_t shift)
      : context_(1, memory_, device.ref, *device.bodies),
        buffer_(memory_, "test", bytes.size() + shift, device.ref),
        view_(buffer_.view(core::DType::kU8, core::Shape{static_cast<std::int64_t>(bytes.size())},
                           shift)) {
    context_.stream().to_device(view_.raw(), bytes.data(), bytes.size());
    context_.stream().synchronize();
  }

  // Twice with the same plan, on the stand-in also when its threads run in the other order.
  void expect(const HashCases& cases, const Messages& messages, const std::string& what) {
    const HashPlan plan(context_, memory_, messages);
    const std::vector<std::uint64_t> expected = cases.expected(messages);
    const std::size_t bytes = messages.size() * sizeof(std::uint64_t);
    const core::Buffer out(memory_, "test", bytes, context_.device_ref());
    for (const bool reverse : {false, true}) {
      context_.stream().fill(out.data(), 0xFF, bytes);
      core::cuda::stand_in_settings().reverse = reverse;
      hash_messages(context_, plan, view_, static_cast<std::uint64_t*>(out.data()));
      core::cuda::stand_in_settings().reverse = false;
      std::vector<std::uint64_t> hashes(messages.size());
      context_.stream().to_host(hashes.data(), out.data(), bytes);
      for (std::size_t m = 0; m < messages.size(); ++m)
        ASSERT_EQ(hashes[m], expected[m]) << what << ", message " << m;
    }
  }

  core::MemoryTracker& memory() { return memory_; }
  OpContext& context() { return context_; }
  core::TensorView view() const { return view_; }

 private:
  core::MemoryTracker memory_;
  OpContext context_;
  core::Buffer buffer_;
  core::TensorView view_;
};

TEST(DeviceHash, EveryLengthUpTo5000) {
  for (const TestDevice& device : test::devices_under_test()) {
    HashCases cases(8192);
    DeviceBase base(device, cases.base(), 0);
    base.expect(cases, cases.every_length(5000), device.name);
  }
}

TEST(DeviceHash, LongMessagesOfManySegments) {
  for (const TestDevice& device : test::devices_under_test())
    for (const std::size_t shift : {0, 1, 2, 8}) {
      HashCases cases(1 << 22);
      DeviceBase base(device, cases.base(), shift);
      base.expect(cases, cases.long_messages(), device.name + ", base + " + std::to_string(shift));
    }
}

TEST(DeviceHash, NothingToHash) {
  for (const TestDevice& device : test::devices_under_test()) {
    HashCases cases(64);
    DeviceBase base(device, cases.base(), 0);
    base.expect(cases, {{}, {{5, 0}}}, device.name);
    base.expect(cases, {}, device.name);
  }
}

TEST(DeviceHash, LaterCallsOnlyLaunch) {
  if (test::only_gpu()) GTEST_SKIP() << "the stand-in, which records its calls, is left out";
  const TestDevice& device = test::devices_under_test().front();
  HashCases cases(1 << 20);
  DeviceBase base(device, cases.base(), 0);
  const Messages messages = {cases.message(300000, 4, 128), cases.message(100, 1, 1)};
  const HashPlan plan(base.context(), base.memory(), messages);
  const core::Buffer out(base.memory(), "test", 16, device.ref);
  const auto hash = [&] {
    hash_messages(base.context(), plan, base.view(), static_cast<std::uint64_t*>(out.data()));
  };
  hash();
  std::vector<std::string> calls;
  core::cuda::stand_in_settings().record = &calls;
  hash();
  core::cuda::stand_in_settings().record = nullptr;
  EXPECT_EQ(calls, (std::vector<std::string>{"launch hash_increments", "launch hash_messages"}));
}

TEST(DeviceHash, APlanServesItsDevice) {
  if (test::only_gpu()) GTEST_SKIP() << "the stand-in is left out";
  const TestDevice& device = test::devices_under_test().front();
  HashCases cases(512);
  DeviceBase base(device, cases.base(), 0);
  OpContext cpu(1, base.memory());
  const HashPlan plan(cpu, base.memory(), {{{0, 512}}});
  std::uint64_t hash = 0;
  EXPECT_THROW(hash_messages(base.context(), plan, base.view(), &hash), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
