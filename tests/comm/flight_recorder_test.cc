#include "comm/flight_recorder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "comm/flight_format.h"
#include "comm/flight_log.h"
#include "comm/local/local_world.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::comm {
namespace {

using ::testing::Test;

class FlightRecorderTest : public Test {
 protected:
  std::string file(int rank = 0) const {
    return (directory_ / ("rank-" + std::to_string(rank) + ".bin")).string();
  }

  void overwrite(std::size_t offset, const void* bytes, std::size_t count) const {
    std::fstream out(file(), std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(static_cast<std::streamoff>(offset));
    out.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
  }

  std::string refusal() const {
    try {
      read_flight_log(file());
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      EXPECT_EQ(std::string(error.what()).find(file()), 0U) << error.what();
      return error.what();
    }
    return "";
  }

  testing::TemporaryDirectory directory_;
};

std::size_t offset_of_record(std::uint64_t sequence) {
  return sizeof(FlightFileHeader) + sequence % kFlightRecords * sizeof(FlightFileRecord);
}

TEST_F(FlightRecorderTest, ReadsBackWhatWasNoted) {
  FlightRecorder recorder(file(), 2, 3, 7);
  recorder.entered(11, Collective::kReduceScatter, 4096, "block.7");
  recorder.completed(11);
  recorder.entered(12, Collective::kBarrier, 0, std::string(500, 'x'));
  recorder.completed(10);                         // is not in the file
  const FlightLog log = read_flight_log(file());  // while it is still open
  EXPECT_EQ(log.rank, 2);
  EXPECT_EQ(log.world_size, 3);
  EXPECT_EQ(log.attempt, 7);
  EXPECT_EQ(log.pid, getpid());
  EXPECT_FALSE(log.host.empty());
  ASSERT_EQ(log.entries.size(), 2U);
  const FlightEntry& first = log.entries[0];
  EXPECT_EQ(first.name(), "reduce_scatter #11 (block.7)");
  EXPECT_EQ(first.bytes, 4096U);
  EXPECT_TRUE(first.completed);
  EXPECT_GE(first.completed_ns, first.entered_ns);
  EXPECT_GE(first.entered_ns, log.opened_ns);
  EXPECT_FALSE(log.entries[1].completed);
  EXPECT_EQ(log.entries[1].label, std::string(kFlightLabelBytes, 'x'));
  EXPECT_EQ(log.last_completed()->sequence, 11U);
  EXPECT_EQ(log.first_pending()->sequence, 12U);
  EXPECT_EQ(log.torn, 0);
}

TEST_F(FlightRecorderTest, KeepsTheLastOnesInOrder) {
  FlightRecorder recorder(file(), 0, 1, 1);
  constexpr std::uint64_t kCalls = 3 * kFlightRecords + 17;
  for (std::uint64_t s = 1; s <= kCalls; ++s) {
    recorder.entered(s, Collective::kAllGather, s, "x");
    recorder.completed(s);
  }
  const FlightLog log = read_flight_log(file());
  ASSERT_EQ(log.entries.size(), kFlightRecords);
  for (std::size_t i = 0; i < log.entries.size(); ++i) {
    EXPECT_EQ(log.entries[i].sequence, kCalls - kFlightRecords + 1 + i);
    EXPECT_EQ(log.entries[i].bytes, log.entries[i].sequence);
  }
}

TEST_F(FlightRecorderTest, LeavesOutATornRecordAndCountsIt) {
  {
    FlightRecorder recorder(file(), 0, 1, 1);
    for (std::uint64_t s = 1; s <= 4; ++s)
      recorder.entered(s, Collective::kBarrier, 0, "x");
  }
  const std::uint64_t none = 0;
  overwrite(offset_of_record(2) + offsetof(FlightFileRecord, sequence_again), &none, sizeof(none));
  const std::uint32_t unknown = 99;
  overwrite(offset_of_record(3) + offsetof(FlightFileRecord, collective), &unknown,
            sizeof(unknown));
  const FlightLog log = read_flight_log(file());
  EXPECT_EQ(log.torn, 2);
  ASSERT_EQ(log.entries.size(), 2U);
  EXPECT_EQ(log.entries[0].sequence, 1U);
  EXPECT_EQ(log.entries[1].sequence, 4U);
}

TEST_F(FlightRecorderTest, OutlivesAKilledProcess) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    FlightRecorder recorder(file(), 1, 2, 1);
    for (std::uint64_t s = 1;; ++s) {
      recorder.entered(s, Collective::kReduceScatter, 1, "head");
      if (s == 5000 && write(ready[1], "x", 1) != 1) _exit(1);
      recorder.completed(s);
    }
  }
  char token = 0;
  ASSERT_EQ(read(ready[0], &token, 1), 1);
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  close(ready[0]);
  close(ready[1]);
  const FlightLog log = read_flight_log(file());
  EXPECT_EQ(log.pid, child);
  EXPECT_GE(log.last_entered(), 5000U);
  EXPECT_LE(log.torn, 1);
  EXPECT_GE(log.entries.size(), kFlightRecords - 1);
  EXPECT_GE(log.last_completed()->sequence + 1, log.last_entered());
}

TEST_F(FlightRecorderTest, RefusesWhatItCannotRead) {
  EXPECT_NE(refusal().find("cannot read"), std::string::npos);
  std::ofstream(file()) << std::string(5000, 'a');
  EXPECT_NE(refusal().find("not a flight file"), std::string::npos);
  { const FlightRecorder recorder(file(), 0, 1, 1); }
  EXPECT_EQ(refusal(), "");
  const auto size = std::filesystem::file_size(file());
  for (const std::uintmax_t cut : {size - 1, size / 2, std::uintmax_t{300}}) {
    std::filesystem::resize_file(file(), cut);
    EXPECT_NE(refusal().find("cut"), std::string::npos) << cut;
  }
  std::filesystem::resize_file(file(), 255);
  EXPECT_NE(refusal().find("255 bytes"), std::string::npos);
}

TEST_F(FlightRecorderTest, RefusesANewerVersionAndDamagedHeaders) {
  const auto refuses = [&](std::size_t offset, std::uint32_t value, const std::string& words) {
    { const FlightRecorder recorder(file(), 0, 1, 1); }
    overwrite(offset, &value, sizeof(value));
    EXPECT_NE(refusal().find(words), std::string::npos) << refusal();
  };
  refuses(offsetof(FlightFileHeader, version), 2, "version 2; this program reads version 1");
  refuses(offsetof(FlightFileHeader, record_bytes), 64, "records of 64 bytes");
  refuses(offsetof(FlightFileHeader, record_count), 0xffffffffU, "4294967295 records");
  refuses(offsetof(FlightFileHeader, record_count), 0, "0 records");
  refuses(offsetof(FlightFileHeader, rank), 1, "rank 1 of 1");
  refuses(offsetof(FlightFileHeader, world_size), 0, "rank 0 of 0");
}

TEST_F(FlightRecorderTest, SaysWhyAFileCannotBeMade) {
  try {
    const FlightRecorder recorder((directory_ / "absent" / "rank-0.bin").string(), 0, 1, 1);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_NE(std::string(error.what()).find("No such file"), std::string::npos) << error.what();
  }
}

// A limit on file sizes fails the allocation as a full disk does.
TEST_F(FlightRecorderTest, AFullDiskIsAnError) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    try {
      const FlightRecorder recorder(file(), 0, 1, 1);
      _exit(3);
    } catch (const core::Error& error) {
      const bool named = std::string(error.what()).find("cannot allocate") != std::string::npos;
      _exit(error.kind() == core::ErrorKind::kData && named ? 0 : 4);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_FALSE(std::filesystem::exists(file()));
}

TEST_F(FlightRecorderTest, DamagedBytesAreReadOrRefused) {
  std::string whole;
  {
    FlightRecorder recorder(file(), 0, 2, 1);
    for (std::uint64_t s = 1; s <= 300; ++s) {
      recorder.entered(s, Collective::kAllReduce, s, "block.1");
      if (s < 299) recorder.completed(s);
    }
    std::ifstream in(file(), std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(in), {});
  }
  const FlightLog intact = read_flight_log(file());
  std::mt19937 random(7);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string damaged = whole;
    const std::size_t span = i % 2 == 0 ? sizeof(FlightFileHeader) : damaged.size();
    for (int k = 0; k < 8; ++k)
      damaged[random() % span] = static_cast<char>(random());
    std::ofstream(file(), std::ios::binary) << damaged;
    try {
      const FlightLog log = read_flight_log(file());
      EXPECT_LE(log.entries.size() + static_cast<std::size_t>(log.torn), kFlightRecords);
      diagnose(std::vector<FlightLog>{intact, log});
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_LT(refused, 1000);
}

// The communicator's own notes: every rank's files hold the same collectives; and a rank that does
// not come is named.
TEST_F(FlightRecorderTest, NamesTheRankThatDoesNotCome) {
  using std::chrono_literals::operator""ms;
  const LocalWorld world(3, 300ms);
  EXPECT_THROW(world.run([&](Communicator& comm) {
    FlightRecorder recorder(file(comm.rank()), comm.rank(), 3, 1);
    comm.barrier("before");
    comm.record_to(&recorder);
    std::vector<float> full(3 * 8, 1.0F);
    std::vector<float> sum(3 * 8);
    const core::TensorView input(full.data(), core::DType::kF32, {24});
    comm.all_reduce(input, core::TensorView(sum.data(), core::DType::kF32, {24}), ReduceOp::kSum,
                    "loss")
        .wait();
    comm.all_gather_small(comm.rank(), "step_report");
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(500ms);
    } else {
      comm.reduce_scatter(input, core::TensorView(sum.data(), core::DType::kF32, {8}),
                          Output::kOverwrite, "head")
          .wait();
    }
    comm.barrier("after");
  }),
               core::Error);

  std::vector<FlightLog> logs;
  for (int rank = 0; rank < 3; ++rank)
    logs.push_back(read_flight_log(file(rank)));
  for (const FlightLog& log : logs) {
    ASSERT_GE(log.entries.size(), 2U);
    EXPECT_EQ(log.entries[0].name(), "all_reduce #2 (loss)");
    EXPECT_EQ(log.entries[0].bytes, 96U);
    EXPECT_TRUE(log.entries[0].completed);
    EXPECT_EQ(log.last_completed()->name(), "all_gather #3 (step_report)");
  }
  ASSERT_NE(logs[0].first_pending(), nullptr);
  EXPECT_EQ(logs[0].first_pending()->name(), "reduce_scatter #4 (head)");
  const std::vector<std::string> findings = diagnose(logs);
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].find("rank 1 has not entered reduce_scatter #4 (head); it last completed "
                             "all_gather #3 (step_report); ranks 0, 2 wait in it since 0."),
            0U)
      << findings[0];
}

TEST_F(FlightRecorderTest, WaitedCountsTheTimeForPeersOnly) {
  using std::chrono_literals::operator""ms;
  const LocalWorld world(2, 10000ms);
  world.run([&](Communicator& comm) {
    if (comm.rank() == 1) std::this_thread::sleep_for(100ms);
    const auto before = comm.waited();
    comm.barrier("late");
    const auto waited = comm.waited() - before;
    EXPECT_EQ(waited > 50ms, comm.rank() == 0) << comm.rank() << ": " << waited.count() << " ns";
  });
}

FlightLog log_of(int rank, const std::vector<std::string>& labels, std::size_t completed) {
  FlightLog log;
  log.rank = rank;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    FlightEntry entry;
    entry.sequence = i + 1;
    entry.collective = Collective::kAllGather;
    entry.label = labels[i];
    entry.completed = i < completed;
    log.entries.push_back(entry);
  }
  log.seen_ns = 2'000'000'000;
  return log;
}

TEST(FlightDiagnosis, NothingToSayWhenAllIsDone) {
  const std::vector<FlightLog> logs{log_of(0, {"a", "b"}, 2), log_of(1, {"a", "b"}, 2)};
  EXPECT_TRUE(diagnose(logs).empty());
  EXPECT_TRUE(diagnose({}).empty());
}

TEST(FlightDiagnosis, SeveralRanksAreBehind) {
  const std::vector<FlightLog> logs{log_of(0, {"a", "b"}, 1), log_of(1, {"a"}, 1),
                                    log_of(2, {}, 0)};
  ASSERT_EQ(diagnose(logs).size(), 1U);
  EXPECT_EQ(diagnose(logs)[0],
            "rank 2 has not entered all_gather #1 (a); it completed nothing; ranks 0, 1 wait in it "
            "since 2.0 s");
  const std::vector<FlightLog> two{log_of(0, {"a", "b"}, 1), log_of(1, {"a"}, 1),
                                   log_of(2, {"a"}, 0)};
  EXPECT_EQ(diagnose(two)[0],
            "ranks 1, 2 have not entered all_gather #2 (b); rank 1 last completed all_gather #1 "
            "(a); rank 2 completed nothing; rank 0 waits in it since 2.0 s");
}

// A rank that computes does not complete what it launched before: it is behind all the same.
TEST(FlightDiagnosis, LaunchedIsNotWaiting) {
  const std::vector<FlightLog> logs{log_of(0, {"a", "b", "c"}, 2), log_of(1, {"a", "b"}, 1)};
  EXPECT_EQ(diagnose(logs)[0].find("rank 1 has not entered all_gather #3 (c)"), 0U);
}

TEST(FlightDiagnosis, ASkippedBucketIsADifference) {
  const std::vector<FlightLog> logs{log_of(0, {"a", "b"}, 1), log_of(1, {"a", "c"}, 1),
                                    log_of(2, {"a", "b"}, 1)};
  const std::vector<std::string> findings = diagnose(logs);
  ASSERT_EQ(findings.size(), 2U);
  EXPECT_EQ(findings[0],
            "rank 1 entered all_gather #2 (c) where ranks 0, 2 entered all_gather #2 (b)");
}

}  // namespace
}  // namespace lockstep::comm
