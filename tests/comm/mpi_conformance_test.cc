// The conformance suite on mpi, with this machine as one node and cut into two.

#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <tuple>

#include "comm/mpi/mpi_communicator.h"
#include "tests/comm/conformance.h"

namespace lockstep::comm::testing {
namespace {

using std::chrono_literals::operator""s;

using MpiParam = std::tuple<int, ConformanceCase>;  // nodes, case

std::string mpi_name(const ::testing::TestParamInfo<MpiParam>& info) {
  return std::get<1>(info.param).name + "Nodes" + std::to_string(std::get<0>(info.param));
}

class MpiConformance : public ::testing::TestWithParam<MpiParam> {};

TEST_P(MpiConformance, Holds) {
  const auto comm =
      make_mpi_communicator({.timeout = 60s, .pretended_nodes = std::get<0>(GetParam())});
  EXPECT_EQ(comm->backend(), "mpi");
  std::get<1>(GetParam()).check({*comm});
}

INSTANTIATE_TEST_SUITE_P(Cases, MpiConformance,
                         ::testing::Combine(::testing::Values(1, 2),
                                            ::testing::ValuesIn(conformance_cases())),
                         mpi_name);

class MpiMisuse : public ::testing::TestWithParam<MpiParam> {};

TEST_P(MpiMisuse, IsAnErrorThatNamesTheRank) {
  const auto comm =
      make_mpi_communicator({.timeout = 30s, .pretended_nodes = std::get<0>(GetParam())});
  if (comm->world_size() == 1) return;  // nobody to disagree with
  std::get<1>(GetParam()).check({*comm});
}

INSTANTIATE_TEST_SUITE_P(Cases, MpiMisuse,
                         ::testing::Combine(::testing::Values(1, 2),
                                            ::testing::ValuesIn(misuse_cases())),
                         mpi_name);

// Where other processes' descriptors may not be opened, segments have names, unlinked once mapped.
TEST(MpiNamedSegments, Serve) {
  const auto comm = make_mpi_communicator({.timeout = 60s, .named_segments = true});
  for (const ConformanceCase& c : conformance_cases()) {
    if (c.name == "ReduceScatter" || c.name == "Allocate") c.check({*comm});
  }
}

}  // namespace
}  // namespace lockstep::comm::testing
