#include "runtime/step/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;

LedgerRecord record_of(std::int64_t step) {
  LedgerRecord record;
  record.step = step;
  record.data_position = 8 * (step - 1);
  record.outcome = "applied";
  record.applied_steps = step;
  record.tokens = 512;
  record.loss = 0.1 + 1.0 / static_cast<double>(step);
  record.grad_norm = 1.5;
  record.coefficient = 2.0 / 3.0;
  record.learning_rate = 1e-3;
  record.loss_scale = 65536.0;
  record.next_loss_scale = 65536.0;
  record.config_fingerprint = 0xabcdef;
  record.ranks = 2;
  if (step % 2 == 0) record.parameter_hashes = {{1, 0xffffffffffffffffULL}};
  return record;
}

class LedgerTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::vector<LedgerRecord>& records) {
    Ledger ledger;
    const std::string path = (directory_ / name).string();
    ledger.open(path, 0);
    for (const LedgerRecord& record : records)
      ledger.append(record);
    return path;
  }
  static std::vector<LedgerRecord> three() { return {record_of(1), record_of(2), record_of(3)}; }

  void expect_refused(const std::string& text, const std::string& reason) {
    const std::string path = directory_.write("altered.jsonl", text).string();
    try {
      read_ledger(path);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      EXPECT_THAT(error.what(), HasSubstr("altered.jsonl"));
      EXPECT_THAT(error.what(), HasSubstr(reason));
    }
  }

  TemporaryDirectory directory_;
};

TEST_F(LedgerTest, ReadsBackWhatWasWritten) {
  const std::vector<LedgerLine> lines = read_ledger(write("a.jsonl", three()));
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0].step, 1);
  EXPECT_EQ(lines[2].step, 3);
  EXPECT_EQ(lines[0].fields.front(), (std::pair<std::string, std::string>{"version", "1"}));
  EXPECT_EQ(lines[1].fields.back().first, "parameter_hashes");
  EXPECT_EQ(lines[1].fields.back().second, R"(["0000000000000001","ffffffffffffffff"])");
  EXPECT_EQ(lines[2].fields.back(), (std::pair<std::string, std::string>{"ranks", "2"}));
}

// The format is relied upon from outside: the text itself, and the chain of its hashes.
TEST_F(LedgerTest, TextAndChainAreAsDocumented) {
  LedgerRecord record = record_of(1);
  record.loss = std::numeric_limits<double>::quiet_NaN();
  record.ranks = 0;
  const std::string text = testing::read_file(write("a.jsonl", {record, record_of(2)}));
  const std::string canonical =
      R"({"version":1,"step":1,"data_position":0,"outcome":"applied","applied_steps":1,)"
      R"("tokens":512,"loss":null,"grad_norm":1.5,"coefficient":0.6666666666666666,)"
      R"("learning_rate":0.001,"loss_scale":65536,"next_loss_scale":65536,)"
      R"("config_fingerprint":"0000000000abcdef")";
  const std::uint64_t first = core::hash64(canonical, 0);
  const std::string line = canonical + R"(,"hash":")" + core::to_hex(first) + "\"}\n";
  ASSERT_EQ(text.substr(0, line.size()), line);
  const std::string rest = text.substr(line.size());
  const std::size_t hash_at = rest.rfind(",\"hash\":\"");
  const std::uint64_t second = core::hash64(rest.substr(0, hash_at), first);
  EXPECT_EQ(rest.substr(hash_at), ",\"hash\":\"" + core::to_hex(second) + "\"}\n");
}

TEST_F(LedgerTest, EveryRankKeepsTheSameChainWithoutAFile) {
  Ledger with_file;
  Ledger without;
  with_file.open((directory_ / "a.jsonl").string(), 0);
  EXPECT_EQ(without.head(), 0U);
  for (const LedgerRecord& record : three()) {
    with_file.append(record);
    without.append(record);
    EXPECT_EQ(with_file.head(), without.head());
    EXPECT_NE(without.head(), 0U);
  }
}

TEST_F(LedgerTest, AnyAlteredCharacterIsFoundAndItsLineNamed) {
  const std::string text = testing::read_file(write("a.jsonl", three()));
  const std::size_t begin = text.find('\n') + 1;
  const std::size_t end = text.find('\n', begin);
  for (std::size_t at = begin; at < end; ++at) {
    std::string altered = text;
    altered[at] = altered[at] == '7' ? '8' : '7';
    expect_refused(altered, "line 2");
  }
}

TEST_F(LedgerTest, ARemovedOrSwappedLineBreaksTheChain) {
  const std::string text = testing::read_file(write("a.jsonl", three()));
  const std::size_t one = text.find('\n') + 1;
  const std::size_t two = text.find('\n', one) + 1;
  expect_refused(text.substr(0, one) + text.substr(two), "line 2 (step 3): the chain is broken");
  expect_refused(text.substr(one, two - one) + text.substr(0, one) + text.substr(two), "line 1");
}

TEST_F(LedgerTest, RefusesWhatIsNoRecord) {
  const std::string good = testing::read_file(write("a.jsonl", {record_of(1)}));
  expect_refused(good + "\n", "line 2 is not a ledger record");
  expect_refused(good + "[1]\n", "line 2");
  expect_refused(good + R"({"step":"two","hash":"00"})" + "\n", "line 2");
  expect_refused(good + R"({"step":2,"x":1,"hash":7})" + "\n", "line 2");
  expect_refused(good + R"({"step":2,"x":1,"hash":"zz"})" + "\n", "line 2");
}

TEST_F(LedgerTest, ATornLastLineIsTolerated) {
  const std::string text = testing::read_file(write("a.jsonl", three()));
  const std::size_t last = text.rfind('\n', text.size() - 2) + 1;
  for (std::size_t keep = last; keep < text.size(); ++keep) {
    const auto path = directory_.write("torn.jsonl", text.substr(0, keep));
    EXPECT_EQ(read_ledger(path.string()).size(), 2U) << keep;
  }
}

TEST_F(LedgerTest, MissingFile) {
  EXPECT_THROW(read_ledger((directory_ / "none.jsonl").string()), core::Error);
}

TEST_F(LedgerTest, ContinuesAfterBeingCut) {
  const std::string path = (directory_ / "a.jsonl").string();
  std::uint64_t length = 0;
  std::uint64_t head = 0;
  {
    Ledger ledger;
    ledger.open(path, 0);
    ledger.append(record_of(1));
    length = ledger.sync();
    head = ledger.head();
    ledger.append(record_of(2));
  }
  {
    Ledger resumed;
    resumed.set_head(head);
    resumed.open(path, length);
    EXPECT_EQ(resumed.sync(), length);  // before anything is appended
    LedgerRecord other = record_of(2);
    other.outcome = "overflow";
    resumed.append(other);
    EXPECT_GT(resumed.sync(), length);
  }
  const std::vector<LedgerLine> lines = read_ledger(path);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[1].fields[3].second, "\"overflow\"");
}

TEST_F(LedgerTest, CannotContinueAFileThatIsTooShort) {
  const std::string path = write("a.jsonl", {record_of(1)});
  Ledger ledger;
  EXPECT_THROW(ledger.open(path, 1U << 20), core::Error);
}

TEST_F(LedgerTest, FirstDifferenceNamesStepFieldAndValues) {
  std::vector<LedgerRecord> other = three();
  other[1].grad_norm = 1.25;
  other[2].tokens = 1;
  const auto difference = first_difference(read_ledger(write("a.jsonl", three())),
                                           read_ledger(write("b.jsonl", other)));
  ASSERT_TRUE(difference.has_value());
  EXPECT_EQ(difference->step, 2);
  EXPECT_EQ(difference->field, "grad_norm");
  EXPECT_EQ(difference->first, "1.5");
  EXPECT_EQ(difference->second, "1.25");
}

// Hashes are taken on steps that verify and before saves, which runs may choose differently.
TEST_F(LedgerTest, HashesThatOnlyOneTookAreNoDifference) {
  std::vector<LedgerRecord> other = three();
  other[1].parameter_hashes.reset();
  const auto a = read_ledger(write("a.jsonl", three()));
  const auto b = read_ledger(write("b.jsonl", other));
  for (const bool swapped : {false, true}) {
    const auto difference = swapped ? first_difference(b, a) : first_difference(a, b);
    EXPECT_FALSE(difference.has_value());
  }
}

TEST_F(LedgerTest, NoDifferenceBetweenEqualOnesAndPrefixes) {
  const auto whole = read_ledger(write("a.jsonl", three()));
  const auto prefix = read_ledger(write("b.jsonl", {record_of(1), record_of(2)}));
  EXPECT_FALSE(first_difference(whole, whole).has_value());
  EXPECT_FALSE(first_difference(whole, prefix).has_value());
}

}  // namespace
}  // namespace lockstep::runtime
