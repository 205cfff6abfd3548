#include "runtime/data/token_dataset.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "ops/loss.h"
#include "runtime/data/permutation.h"
#include "tests/runtime/data/token_bytes.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

using core::DType;
using lockstep::testing::bytes_of;
using lockstep::testing::data_error;
using lockstep::testing::TemporaryDirectory;
using ::testing::HasSubstr;

// Files of consecutive ids: file f of n tokens holds f*1000, f*1000 + 1, ...
std::vector<TokenFile> make_files(const TemporaryDirectory& dir, const std::vector<int>& sizes) {
  std::vector<std::string> sources;
  for (std::size_t f = 0; f < sizes.size(); ++f) {
    std::vector<std::uint16_t> ids(static_cast<std::size_t>(sizes[f]));
    std::iota(ids.begin(), ids.end(), static_cast<std::uint16_t>(f * 1000));
    sources.push_back(dir.write("f" + std::to_string(f) + ".bin", bytes_of(ids)).string());
  }
  return open_token_files(sources, DType::kU16, DataSplit::kTrain);
}

DealingOptions options(DataOrder order, std::int64_t context) {
  return {.order = order, .seed = 7, .context = context, .vocab = 65536};
}

struct Dealt {
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> targets;
};

Dealt deal(const TokenDataset& data, std::int64_t position, std::int64_t count) {
  const auto n = static_cast<std::size_t>(count * data.options().context);
  Dealt dealt{std::vector<std::int32_t>(n), std::vector<std::int32_t>(n)};
  data.fill(position, count, dealt.inputs, dealt.targets);
  return dealt;
}

TEST(SequentialDealing, FollowsTheFormulaAndWrapsAround) {
  const TemporaryDirectory dir;
  for (const int tokens : {5, 12, 13, 16, 17, 18, 101}) {
    constexpr int kContext = 4;
    constexpr int kBatch = 3;
    const TokenDataset data(make_files(dir, {tokens}), options(DataOrder::kSequential, kContext));
    const int period = (tokens - 1) / kContext * kContext;  // floor((tokens-1)/T)*T
    for (int step = 0; step < 20; ++step) {
      const Dealt dealt = deal(data, step * kBatch, kBatch);
      for (int i = 0; i < kBatch; ++i) {
        for (int t = 0; t < kContext; ++t) {
          const int start = (step * kBatch + i) * kContext % period;
          const auto at = static_cast<std::size_t>(i * kContext + t);
          ASSERT_EQ(dealt.inputs[at], start + t) << tokens << " " << step;
          ASSERT_EQ(dealt.targets[at], start + t + 1) << tokens << " " << step;
        }
      }
    }
  }
}

TEST(SequentialDealing, NeverCrossesFiles) {
  const TemporaryDirectory dir;
  const TokenDataset data(make_files(dir, {9, 5, 12}), options(DataOrder::kSequential, 4));
  EXPECT_EQ(data.sequences(), 2U + 1U + 2U);
  EXPECT_EQ(data.tokens(), 26U);
  const std::vector<std::int32_t> starts = {0, 4, 1000, 2000, 2004, 0, 4, 1000, 2000, 2004, 0};
  for (std::size_t p = 0; p < starts.size(); ++p) {
    const Dealt dealt = deal(data, static_cast<std::int64_t>(p), 1);
    EXPECT_EQ(dealt.inputs[0], starts[p]) << p;
    EXPECT_EQ(dealt.targets[3], starts[p] + 4) << p;
  }
}

TEST(Dealing, MicroBatchesAreSlicesOfTheStep) {
  const TemporaryDirectory dir;
  for (const DataOrder order : {DataOrder::kSequential, DataOrder::kShuffled}) {
    const TokenDataset data(make_files(dir, {500, 333}), options(order, 8));
    for (const std::int64_t step : {0, 1, 7, 1000}) {
      const Dealt whole = deal(data, step * 12, 12);
      for (const std::int64_t micro : {1, 2, 3, 4, 6}) {
        Dealt pieces;
        for (std::int64_t first = 0; first < 12; first += micro) {
          const Dealt piece = deal(data, step * 12 + first, micro);
          pieces.inputs.insert(pieces.inputs.end(), piece.inputs.begin(), piece.inputs.end());
          pieces.targets.insert(pieces.targets.end(), piece.targets.begin(), piece.targets.end());
        }
        EXPECT_EQ(pieces.inputs, whole.inputs);
        EXPECT_EQ(pieces.targets, whole.targets);
      }
    }
  }
}

TEST(ShuffledDealing, VisitsEverySequenceOnceAnEpochInAnotherOrder) {
  const TemporaryDirectory dir;
  const TokenDataset data(make_files(dir, {401, 202}), options(DataOrder::kShuffled, 4));
  const std::uint64_t sequences = data.sequences();
  ASSERT_EQ(sequences, 150U);
  std::vector<std::vector<std::int32_t>> epochs;
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int32_t> starts;
    for (std::uint64_t i = 0; i < sequences; ++i) {
      const std::uint64_t p = epoch * sequences + i;
      const Dealt dealt = deal(data, static_cast<std::int64_t>(p), 1);
      starts.push_back(dealt.inputs[0]);
      const auto entry = static_cast<std::int32_t>(Permutation(7, epoch, sequences)(i));
      const std::int32_t expected = entry < 100 ? entry * 4 : 1000 + (entry - 100) * 4;
      EXPECT_EQ(dealt.inputs[0], expected);
      EXPECT_EQ(dealt.targets[3], expected + 4);
    }
    EXPECT_EQ(std::set<std::int32_t>(starts.begin(), starts.end()).size(), sequences);
    epochs.push_back(starts);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Dataset, RefusesTooLittleData) {
  const TemporaryDirectory dir;
  EXPECT_NO_THROW(TokenDataset(make_files(dir, {5}), options(DataOrder::kSequential, 4)));
  const std::string message = data_error([&] {
    TokenDataset(make_files(dir, {50, 4}), options(DataOrder::kSequential, 4));
  });
  EXPECT_THAT(message, HasSubstr("f1.bin: expected at least 5 tokens"));
  EXPECT_THAT(message, HasSubstr("found 4"));
  EXPECT_THAT(data_error([&] { TokenDataset({}, options(DataOrder::kSequential, 4)); }),
              HasSubstr("found none"));
}

TEST(Dataset, RefusesIdsBeyondTheVocabularyWhenOpened) {
  const TemporaryDirectory dir;
  DealingOptions small = options(DataOrder::kShuffled, 4);
  small.vocab = 1050;
  EXPECT_NO_THROW(TokenDataset(make_files(dir, {20, 50}), small));
  EXPECT_THAT(data_error([&] {
                TokenDataset(make_files(dir, {20, 51}), small);
              }),
              HasSubstr("id 1050 at token 50"));
}

TEST(Dataset, ChecksHugeFilesWhereTheyAreDealt) {
  const TemporaryDirectory dir;
  const auto path = dir.write("huge.bin", bytes_of(std::vector<std::uint16_t>(5, 1)));
  std::filesystem::resize_file(path, kFullScanBytes);  // sparse: the rest is token 0
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(2 * 9);
    file.write("\xFF\xFF", 2);
  }
  DealingOptions sequential = options(DataOrder::kSequential, 4);
  sequential.vocab = 256;
  const TokenDataset data(open_token_files({path.string()}, DType::kU16, DataSplit::kTrain),
                          sequential);
  EXPECT_EQ(deal(data, 0, 1).targets[3], 1);
  EXPECT_THAT(data_error([&] { deal(data, 2, 1); }), HasSubstr("id 65535 at token 9"));
}

// Tokens that are no targets: -100 in files of 32-bit ids, or a mask file beside the ids.
TEST(Dataset, LeavesOutWhatIsNoTarget) {
  const TemporaryDirectory dir;
  const auto wide = dir.write(
      "wide.bin", bytes_of<std::uint32_t>({4, 5, 0xFFFFFF9CU, 0xFFFFFF9CU, 8, 9, 4, 5, 6}));
  const auto narrow = dir.write("narrow.bin", bytes_of<std::uint16_t>({4, 5, 6, 7, 8, 9, 4, 5, 6}));
  dir.write("narrow.mask", bytes_of<std::uint8_t>({1, 1, 0, 0, 1, 1, 1, 1, 0}));
  DealingOptions sequential = options(DataOrder::kSequential, 4);
  sequential.vocab = 10;
  const TokenDataset by_id(open_token_files({wide.string()}, DType::kU32, DataSplit::kTrain),
                           sequential);
  const TokenDataset by_mask(open_token_files({narrow.string()}, DType::kU16, DataSplit::kTrain),
                             sequential);
  using Ids = std::vector<std::int32_t>;
  EXPECT_EQ(deal(by_id, 0, 1).inputs, (Ids{4, 5, 0, 0}));
  EXPECT_EQ(deal(by_id, 0, 1).targets, (Ids{5, ops::kIgnored, ops::kIgnored, 8}));
  EXPECT_EQ(deal(by_mask, 0, 2).inputs, (Ids{4, 5, 6, 7, 8, 9, 4, 5}));
  EXPECT_EQ(deal(by_mask, 0, 2).targets,
            (Ids{5, ops::kIgnored, ops::kIgnored, 8, 9, 4, 5, ops::kIgnored}));
  EXPECT_EQ(by_id.files()[0].id_range().largest, 9U);
  EXPECT_EQ(by_id.files()[0].id_range().targets, 7U);
  EXPECT_EQ(by_mask.files()[0].id_range().targets, 6U);
  // A changed mask is changed data.
  ASSERT_EQ(by_mask.fingerprints().size(), 2U);
  EXPECT_EQ(by_mask.fingerprints()[1].name, "narrow.mask");
  EXPECT_EQ(by_id.fingerprints().size(), 1U);
  dir.write("narrow.mask", bytes_of<std::uint8_t>({1, 1, 7, 0, 1, 1, 1, 1, 0}));
  const TokenDataset odd(open_token_files({narrow.string()}, DType::kU16, DataSplit::kTrain),
                         sequential);
  EXPECT_THAT(data_error([&] { deal(odd, 0, 1); }), HasSubstr("narrow.mask: expected 0 or 1"));
  dir.write("narrow.mask", bytes_of<std::uint8_t>({1, 1, 0}));
  EXPECT_THAT(
      data_error([&] { open_token_files({narrow.string()}, DType::kU16, DataSplit::kTrain); }),
      HasSubstr("narrow.mask: expected a byte for each of the 9 tokens"));
}

// D3: cut short under a run, it is an error that names it.
TEST(Dataset, NamesAFileThatIsCutShort) {
  const TemporaryDirectory dir;
  const auto path = dir.write("cut.bin", bytes_of(std::vector<std::uint16_t>(100000, 3)));
  const TokenDataset data(open_token_files({path.string()}, DType::kU16, DataSplit::kTrain),
                          options(DataOrder::kSequential, 4));
  std::filesystem::resize_file(path, 5000);
  EXPECT_EQ(deal(data, 0, 1).targets[3], 3);
  const std::string message = data_error([&] { deal(data, 20000, 1); });
  EXPECT_THAT(message, HasSubstr("cut.bin: expected 200000 bytes"));
  EXPECT_THAT(message, HasSubstr("cut short"));
}

// The permutation as the header describes it, written a second time.
std::uint64_t replay(std::uint64_t seed, std::uint64_t epoch, std::uint64_t size,
                     std::uint64_t index) {
  const core::Philox4x32Key key = core::stream_key(seed, "data/order", epoch);
  std::uint64_t side = 2;
  while (side < (1ULL << 31) && side * side < size)
    side *= 2;
  std::uint64_t x = index;
  do {
    std::uint64_t left = x / side;
    std::uint64_t right = x % side;
    for (std::uint32_t round = 0; round < 8; ++round) {
      const auto block = core::philox4x32(key, {static_cast<std::uint32_t>(right), 0, round, 0});
      const std::uint64_t next = left ^ (block[0] % side);
      left = right;
      right = next;
    }
    x = left * side + right;
  } while (x >= size);
  return x;
}

TEST(Permutation, IsABijectionOfEverySize) {
  std::vector<std::uint64_t> sizes(130);
  std::iota(sizes.begin(), sizes.end(), std::uint64_t{1});
  for (const std::uint64_t more : {255, 256, 257, 1000, 1023, 1025, 4096, 4097, 65535, 65537})
    sizes.push_back(more);
  for (const std::uint64_t size : sizes) {
    const Permutation permutation(42, 3, size);
    std::vector<bool> seen(size, false);
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t value = permutation(i);
      ASSERT_LT(value, size);
      ASSERT_FALSE(seen[value]) << "size " << size << " index " << i;
      seen[value] = true;
    }
  }
}

TEST(Permutation, FollowsItsDescription) {
  for (const std::uint64_t size :
       {std::uint64_t{1}, std::uint64_t{5}, std::uint64_t{1000}, std::uint64_t{123456789},
        (std::uint64_t{1} << 40) + 17, std::uint64_t{1} << 62}) {
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(size, 50); ++i)
      ASSERT_EQ(Permutation(9, 2, size)(i), replay(9, 2, size, i)) << size << " " << i;
  }
}

// Recorded: a change of these values would change the order of every shuffled run.
TEST(Permutation, KeepsItsValues) {
  std::vector<std::uint64_t> values;
  for (std::uint64_t i = 0; i < 10; ++i)
    values.push_back(Permutation(1337, 0, 10)(i));
  EXPECT_EQ(values, (std::vector<std::uint64_t>{7, 6, 3, 5, 4, 2, 1, 0, 8, 9}));
}

TEST(Permutation, LooksUniform) {
  // Where index 0 goes over many epochs: 16 equally likely places, chi-square with 15 degrees of
  // freedom, whose 99.99 % point is 44.3.
  constexpr int kEpochs = 16000;
  std::vector<int> counts(16, 0);
  for (std::uint64_t epoch = 0; epoch < kEpochs; ++epoch)
    ++counts[Permutation(1, epoch, 16)(0)];
  double chi_square = 0;
  for (const int count : counts)
    chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 44.3);
  // Neighbours do not stay together: about one pair in 1000 of a random order does.
  const Permutation permutation(1, 0, 100000);
  int neighbours = 0;
  for (std::uint64_t i = 0; i + 1 < 100000; ++i)
    if (permutation(i) + 1 == permutation(i + 1)) ++neighbours;
  EXPECT_LT(neighbours, 20);
}

}  // namespace
}  // namespace lockstep::runtime
