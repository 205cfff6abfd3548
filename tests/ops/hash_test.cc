#include "ops/hash.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/ops/hash_cases.h"

namespace lockstep::ops {
namespace {

using test::HashCases;
using test::Messages;

std::vector<std::uint64_t> hashes_of(const std::vector<unsigned char>& base,
                                     const Messages& messages, int threads) {
  core::MemoryTracker memory;
  OpContext context(threads, memory);
  const HashPlan plan(context, memory, messages);
  std::vector<std::uint64_t> hashes(messages.size(), 1);
  const core::ConstTensorView view(base.data(), core::DType::kU8,
                                   core::Shape{static_cast<std::int64_t>(base.size())});
  hash_messages(context, plan, view, hashes.data());
  EXPECT_EQ(memory.current(), 0U);
  return hashes;
}

TEST(Hash, IsThatOfTheJoinedBytes) {
  HashCases cases(1 << 22);
  for (const Messages& messages : {cases.every_length(2000), cases.long_messages()})
    for (const int threads : {1, 3})
      EXPECT_EQ(hashes_of(cases.base(), messages, threads), cases.expected(messages));
}

TEST(Hash, NothingToHash) {
  EXPECT_TRUE(hashes_of({}, {}, 1).empty());
  EXPECT_EQ(hashes_of({}, {{}, {{0, 0}}}, 1), (std::vector<std::uint64_t>(2, core::hash64("", 0))));
}

TEST(Hash, APlanKnowsHowFarItReads) {
  core::MemoryTracker memory;
  OpContext context(1, memory);
  const HashPlan plan(context, memory, {{{4, 8}}, {{100, 20}, {3, 5}}});
  EXPECT_EQ(plan.extent(), 120);
  std::vector<unsigned char> base(119);
  std::vector<std::uint64_t> hashes(2);
  const core::ConstTensorView view(base.data(), core::DType::kU8, core::Shape{119});
  EXPECT_THROW(hash_messages(context, plan, view, hashes.data()), core::Error);
  EXPECT_THROW(HashPlan(context, memory, {{{-1, 8}}}), core::Error);
  EXPECT_THROW(HashPlan(context, memory, {{{1, -8}}}), core::Error);
}

}  // namespace
}  // namespace lockstep::ops
