// main() of tests that run under mpirun: every rank runs every test, failures of all ranks are
// printed with their rank, and all ranks exit with the same status.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

namespace {

using std::chrono::steady_clock;

// How long a rank that failed waits for the others to leave the same test. They may be inside a
// collective that this rank never reached; then the job is aborted instead of hanging.
constexpr std::chrono::seconds kGraceAfterFailure{20};

void require_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::fprintf(stderr, "%s failed with MPI error %d\n", call, code);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

// Prints failures of this rank with its number. Ranks other than 0 have no other output.
class RankPrinter : public ::testing::EmptyTestEventListener {
 public:
  explicit RankPrinter(int rank) : rank_(rank) {}

  void OnTestStart(const ::testing::TestInfo& info) override {
    test_ = std::string(info.test_suite_name()) + "." + info.name();
  }

  // Called under gtest's own lock, so it must not ask UnitTest for anything.
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s: %s:%d: Failure\n%s\n", rank_, test_.c_str(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
    std::fflush(stderr);
  }

  void OnTestEnd(const ::testing::TestInfo&) override { test_ = kOutside; }

 private:
  static constexpr const char* kOutside = "(outside a test)";

  int rank_;
  std::string test_ = kOutside;
};

// Keeps the ranks in step: no rank starts a test before all have left the one before.
class RankBarrier : public ::testing::EmptyTestEventListener {
 public:
  RankBarrier(MPI_Comm comm, int rank) : comm_(comm), rank_(rank) {}

  void OnTestEnd(const ::testing::TestInfo& info) override {
    const bool failed = info.result()->Failed();
    MPI_Request request = MPI_REQUEST_NULL;
    require_mpi(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier");
    const auto deadline = steady_clock::now() + kGraceAfterFailure;
    for (int done = 0; done == 0;) {
      require_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done != 0) break;
      if (failed && steady_clock::now() > deadline) {
        std::fprintf(stderr, "[rank %d] %s.%s failed here and other ranks are still in it\n", rank_,
                     info.test_suite_name(), info.name());
        std::fflush(stderr);
        MPI_Abort(MPI_COMM_WORLD, 1);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

 private:
  MPI_Comm comm_;
  int rank_;
};

}  // namespace

int main(int argc, char** argv) {
  int provided = MPI_THREAD_SINGLE;
  require_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_MULTIPLE) {
    std::fprintf(stderr, "MPI offers thread level %d, the tests need MPI_THREAD_MULTIPLE\n",
                 provided);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  int rank = 0;
  require_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  MPI_Comm comm = MPI_COMM_NULL;
  require_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");

  ::testing::InitGoogleMock(&argc, argv);
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankPrinter(rank));
  listeners.Append(new RankBarrier(comm, rank));

  const int mine = RUN_ALL_TESTS();
  int agreed = 0;
  require_mpi(MPI_Allreduce(&mine, &agreed, 1, MPI_INT, MPI_MAX, comm), "MPI_Allreduce");
  require_mpi(MPI_Comm_free(&comm), "MPI_Comm_free");
  require_mpi(MPI_Finalize(), "MPI_Finalize");
  return agreed;
}
