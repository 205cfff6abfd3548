#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "coordinator/attempts/log_reader.h"
#include "coordinator/attempts/log_writer.h"
#include "core/error.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr std::int64_t kPart =
    64 << 10;  // of a stream: segments of 6 KiB, 2 at the head, 6 at the tail

class LogTest : public ::testing::Test {
 protected:
  LogTest() {
    fs::create_directories(attempt_ / "logs");
    folder_ = Descriptor(open((attempt_ / "logs").c_str(), O_RDONLY | O_DIRECTORY));
  }

  LogWriter writer(int rank, bool err = false, std::int64_t part = kPart, std::int64_t floor = 0) {
    return {folder_.get(), log_stream_name(rank, err), LogLayout::of(part), floor};
  }
  std::string path() const { return attempt_.path().string(); }
  std::int64_t bytes_on_disk() const {
    std::int64_t sum = 0;
    for (const auto& file : fs::directory_iterator(attempt_ / "logs"))
      sum += static_cast<std::int64_t>(file.file_size());
    return sum;
  }

  testing::TemporaryDirectory attempt_;
  Descriptor folder_;
};

std::string line(int number) {
  return fmt::format("line {:08}\n", number);
}

// What is lost for want of room on the disk is not blamed on the quota, and the other way round.
TEST_F(LogTest, AFullDiskIsNamedRightly) {
  const auto gap = [this](int rank) {
    LogQuery query;
    query.ranks = {rank};
    LogReader reader(path(), 1, query);
    std::optional<LogPiece> found;
    while (const auto piece = reader.next(true))
      if (piece->dropped > 0) found = piece;
    return found;
  };
  LogWriter lost = writer(0);
  lost.write("kept\n", 1);
  {
    // Nothing can be free above all that there is.
    LogWriter without = writer(1, false, kPart, std::int64_t{1} << 60);
    constexpr std::int64_t kLater = 10'000'000'000;  // ns; room is looked for once a second
    without.write("lost\n", kLater);
    without.finish(kLater);
  }
  std::string many;
  for (int i = 0; i < 20'000; ++i)
    many += line(i);
  LogWriter quota = writer(2);
  quota.write(many, 1);
  quota.finish(2);
  lost.finish(2);
  ASSERT_TRUE(gap(1));
  EXPECT_EQ(gap(1)->dropped, 5);
  EXPECT_TRUE(gap(1)->no_space);
  ASSERT_TRUE(gap(2));
  EXPECT_FALSE(gap(2)->no_space);
  EXPECT_FALSE(gap(0));
}

struct Everything {
  std::string bytes;
  std::int64_t dropped = 0;
};

Everything read_all(LogReader& reader, bool ended = true) {
  Everything all;
  while (const auto piece = reader.next(ended)) {
    all.bytes += piece->bytes;
    all.dropped += piece->dropped;
  }
  return all;
}

TEST_F(LogTest, KeepsTimesAndMergesByThem) {
  LogWriter zero = writer(0), one = writer(1);
  zero.write("a\n", 10);
  one.write("b\n", 20);
  zero.write("c\nd\n", 30);
  one.write("half", 40);
  LogReader reader(path(), 1, {});
  std::string order;
  std::vector<std::int64_t> times;
  while (const auto piece = reader.next(false)) {
    order += fmt::format("{}:{}", piece->rank, piece->bytes);
    times.push_back(piece->time_ns);
  }
  // An index entry stands for 64 bytes at least, so that what comes close together is one piece.
  EXPECT_EQ(order, "0:a\nc\nd\n1:b\n");
  EXPECT_EQ(times, (std::vector<std::int64_t>{10, 20}));
  const auto rest = reader.next(true);
  ASSERT_TRUE(rest) << "a last line without an end comes once the attempt has ended";
  EXPECT_EQ(rest->bytes, "half");
  EXPECT_FALSE(reader.next(true));
}

TEST_F(LogTest, StartsAtATimeOrAtTheLastLines) {
  LogWriter log = writer(0);
  for (int i = 0; i < 3000; ++i)
    log.write(fmt::format("line {:050}\n", i) + std::string(20, 'x') + "\n", 1000 + i);
  LogQuery since;
  since.since_ns = 1000 + 2990;
  LogReader from_time(path(), 1, since);
  EXPECT_TRUE(read_all(from_time).bytes.starts_with(fmt::format("line {:050}\n", 2990)));
  LogQuery tail;
  tail.tail_lines = 3;
  LogReader last(path(), 1, tail);
  EXPECT_EQ(read_all(last).bytes, std::string(20, 'x') + "\n" + fmt::format("line {:050}\n", 2999) +
                                      std::string(20, 'x') + "\n");
  tail.tail_lines = 1 << 30;
  LogReader all(path(), 1, tail);
  EXPECT_TRUE(read_all(all).bytes.starts_with(fmt::format("line {:050}\n", 0)));
}

TEST_F(LogTest, S11_TheQuotaHoldsAndHeadAndTailAreKept) {
  LogWriter log = writer(0);
  const int lines = 200'000;
  for (int i = 0; i < lines; ++i) {
    log.write(line(i), 1000 + i);
    if (i % 1000 == 0) {
      EXPECT_LE(bytes_on_disk(), kPart);
    }
  }
  log.finish(1000 + lines);
  EXPECT_LE(bytes_on_disk(), kPart);
  EXPECT_EQ(log.written(), lines * 14);
  LogReader reader(path(), 1, {});
  const Everything all = read_all(reader);
  EXPECT_TRUE(all.bytes.starts_with(line(0) + line(1)));
  EXPECT_TRUE(all.bytes.ends_with(line(lines - 2) + line(lines - 1)));
  EXPECT_EQ(static_cast<std::int64_t>(all.bytes.size()) + all.dropped, log.written());
  EXPECT_EQ(all.dropped, log.dropped());
  EXPECT_GT(static_cast<std::int64_t>(all.bytes.size()), kPart / 2);
}

TEST_F(LogTest, S11_BelowTheFloorOfFreeSpaceNothingIsKeptButCounted) {
  LogWriter log = writer(0, false, kPart, std::int64_t{1} << 62);
  log.write("lost\n", 5'000'000'000);
  log.finish(6'000'000'000);
  EXPECT_EQ(log.written(), 5);
  EXPECT_EQ(log.dropped(), 5);
}

TEST_F(LogTest, S11_StandardErrorHasAPartOfItsOwn) {
  EXPECT_EQ(log_part(4000, 1, true), 500);
  EXPECT_EQ(log_part(4000, 1, false), 1500);
  EXPECT_LE(8 * (log_part(1 << 20, 7, true) + log_part(1 << 20, 7, false)), 1 << 20);
  EXPECT_THROW(LogLayout::of(LogLayout::kSmallestPart - 1), core::Error);
}

// Counted lines of three streams, written in pieces of any size, read meanwhile by a reader that is
// thrown away at random and goes on from its cursor.
TEST_F(LogTest, F18_NothingIsLostDoubledOrReorderedAcrossReconnects) {
  std::mt19937 random(7);
  constexpr int kStreams = 3, kLines = 20'000;
  std::vector<LogWriter*> writers;
  LogWriter a = writer(0, false, 4 << 20), b = writer(1, false, 4 << 20),
            c = writer(1, true, 4 << 20);
  writers = {&a, &b, &c};
  std::vector<std::string> to_write(kStreams), got(kStreams);
  for (int i = 0; i < kLines; ++i) {
    for (auto& text : to_write)
      text += line(i);
  }
  const std::vector<std::string> expected = to_write;
  auto reader = std::make_unique<LogReader>(path(), 3, LogQuery{});
  std::string cursor;
  std::int64_t time = 0;
  const auto take = [&](bool ended) {
    const auto piece = reader->next(ended);
    if (!piece) return false;
    EXPECT_EQ(piece->dropped, 0);
    got[static_cast<std::size_t>(piece->rank + (piece->err ? 1 : 0))] += piece->bytes;
    cursor = piece->cursor;
    if (random() % 7 == 0) reader = std::make_unique<LogReader>(path(), 3, LogQuery{}, cursor);
    return true;
  };
  bool more = true;
  while (more) {
    more = false;
    for (std::size_t i = 0; i < kStreams; ++i) {
      const std::string part = to_write[i].substr(0, random() % 3000);
      writers[i]->write(part, ++time);
      to_write[i].erase(0, part.size());
      more = more || !to_write[i].empty();
    }
    for (int i = 0; i < 3; ++i)
      take(false);
  }
  for (LogWriter* writer : writers)
    writer->finish(++time);
  while (take(true)) {
  }
  for (std::size_t i = 0; i < kStreams; ++i)
    EXPECT_EQ(got[i], expected[i]) << "stream " << i;
}

// A reader that is too slow gets a gap that is counted, and goes on behind it.
TEST_F(LogTest, S10_ASlowReaderIsToldWhatItMissed) {
  LogWriter log = writer(0);
  log.write(line(0), 1);
  LogReader reader(path(), 1, {});
  ASSERT_TRUE(reader.next(false));
  for (int i = 1; i < 100'000; ++i)
    log.write(line(i), 1 + i);
  log.finish(200'000);
  const Everything rest = read_all(reader);
  EXPECT_GT(rest.dropped, 0);
  EXPECT_EQ(14 + static_cast<std::int64_t>(rest.bytes.size()) + rest.dropped, log.written());
  EXPECT_TRUE(rest.bytes.ends_with(line(99'999)));
}

TEST_F(LogTest, ALineLongerThanAPieceComesInParts) {
  LogWriter log = writer(0, false, 1 << 20);
  const std::string text = std::string(3 * LogReader::kPieceBytes, 'x') + "\nshort\n";
  log.write(text, 1);
  LogReader reader(path(), 1, {});
  EXPECT_EQ(read_all(reader, false).bytes, text);
}

TEST_F(LogTest, RefusesWhatIsNoCursorOfTheseLogs) {
  writer(0).write("x\n", 1);
  LogReader reader(path(), 2, {});
  const auto piece = reader.next(true);
  ASSERT_TRUE(piece);
  EXPECT_EQ(LogReader::attempt_of(piece->cursor), 2);
  EXPECT_NO_THROW(LogReader(path(), 2, {}, piece->cursor));
  EXPECT_THROW(LogReader(path(), 3, {}, piece->cursor), core::Error) << "of another attempt";
  for (const std::string& wrong :
       {std::string("x"), std::string("1:"), std::string("1:2:0x5;"), std::string("1:2:0o-5;"),
        std::string("1:2:0o5"), std::string("2:2:"), std::string("1:2:-9o1;"),
        std::string("1:2:0o99999999999999999999;"), "1:2:" + std::string(1 << 16, ';')}) {
    EXPECT_THROW(LogReader(path(), 2, {}, wrong), core::Error) << wrong.substr(0, 40);
  }
}

TEST_F(LogTest, S7_NoLinkIsEverFollowed) {
  const testing::TemporaryDirectory elsewhere;
  const fs::path secret = elsewhere.write("secret", "canary\n");
  const std::string first = log_segment_name(log_stream_name(0, false), 0);
  // A rank that expects where its log will be cannot have it written to another file...
  fs::create_symlink(secret, attempt_ / "logs" / first);
  LogWriter log = writer(0);
  log.write("mine\n", 1);
  EXPECT_EQ(testing::read_file(secret), "canary\n");
  // ... nor have another file read.
  fs::create_symlink(secret, attempt_ / "logs" / log_segment_name(log_stream_name(1, false), 0));
  LogReader reader(path(), 1, {});
  EXPECT_EQ(read_all(reader).bytes, "mine\n");
  fs::rename(attempt_ / "logs", attempt_ / "logs.old");
  fs::create_directory_symlink(attempt_ / "logs.old", attempt_ / "logs");
  LogReader through_link(path(), 1, {});
  EXPECT_EQ(read_all(through_link).bytes, "");
}

}  // namespace
}  // namespace lockstep::coordinator
