// The conformance suite on self and local.

#include <gtest/gtest.h>

#include <chrono>
#include <tuple>

#include "comm/local/local_world.h"
#include "comm/self/self_communicator.h"
#include "tests/comm/conformance.h"

namespace lockstep::comm::testing {
namespace {

using std::chrono_literals::operator""s;

class SelfConformance : public ::testing::TestWithParam<ConformanceCase> {};

TEST_P(SelfConformance, Holds) {
  const auto comm = make_self_communicator(10s);
  EXPECT_EQ(comm->backend(), "self");
  GetParam().check({*comm});
}

INSTANTIATE_TEST_SUITE_P(Cases, SelfConformance, ::testing::ValuesIn(conformance_cases()),
                         [](const auto& test) { return test.param.name; });

using LocalParam = std::tuple<int, ConformanceCase>;

std::string local_name(const ::testing::TestParamInfo<LocalParam>& info) {
  return std::get<1>(info.param).name + "World" + std::to_string(std::get<0>(info.param));
}

class LocalConformance : public ::testing::TestWithParam<LocalParam> {};

TEST_P(LocalConformance, Holds) {
  const LocalWorld world(std::get<0>(GetParam()), 60s);
  world.run([](Communicator& comm) { std::get<1>(GetParam()).check({comm}); });
}

INSTANTIATE_TEST_SUITE_P(Cases, LocalConformance,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 7),
                                            ::testing::ValuesIn(conformance_cases())),
                         local_name);

class LocalMisuse : public ::testing::TestWithParam<LocalParam> {};

TEST_P(LocalMisuse, IsAnErrorThatNamesTheRank) {
  const LocalWorld world(std::get<0>(GetParam()), 30s);
  world.run([](Communicator& comm) { std::get<1>(GetParam()).check({comm}); });
}

INSTANTIATE_TEST_SUITE_P(Cases, LocalMisuse,
                         ::testing::Combine(::testing::Values(2, 3, 7),
                                            ::testing::ValuesIn(misuse_cases())),
                         local_name);

}  // namespace
}  // namespace lockstep::comm::testing
