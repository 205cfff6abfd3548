#include "ops/embedding.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/host_tensor.h"

namespace lockstep::ops {
namespace {

using core::DType;
using test::HostTensor;

constexpr std::int64_t kVocabulary = 13;
constexpr std::int64_t kLength = 5;
constexpr std::int64_t kSequences = 4;
constexpr std::int64_t kTokens = kSequences * kLength;

std::vector<std::int32_t> some_tokens() {
  std::vector<std::int32_t> tokens(kTokens);
  for (std::size_t n = 0; n < tokens.size(); ++n)
    tokens[n] = static_cast<std::int32_t>(n * n * 7 % kVocabulary);  // quadratic residues: not all
  tokens[3] = 0;
  tokens[17] = kVocabulary - 1;
  return tokens;
}

struct Problem {
  Problem(DType dtype, std::int64_t cols, std::int64_t gap = 0)
      : tokens(some_tokens()),
        table(dtype, kVocabulary, cols, gap),
        positions(dtype, kLength + 2, cols, gap),
        type_row(dtype, 1, cols),
        out(dtype, kTokens, cols, gap),
        dx(dtype, kTokens, cols, gap) {
    table.randomize(1);
    positions.randomize(2);
    type_row.randomize(3);
    dx.randomize(4);
  }

  std::vector<std::int32_t> tokens;
  HostTensor table, positions, type_row, out, dx;
};

// Sums of dx by token over rows [begin, end), plus add.
std::vector<double> reference_gradient(const Problem& p, std::int64_t cols, std::int64_t begin,
                                       std::int64_t end, const std::vector<double>& add) {
  std::vector<double> result(static_cast<std::size_t>((end - begin) * cols), 0.0);
  const std::vector<double> dx = p.dx.values();
  for (std::size_t n = 0; n < p.tokens.size(); ++n) {
    if (p.tokens[n] < begin || p.tokens[n] >= end) continue;
    for (std::int64_t c = 0; c < cols; ++c)
      result[static_cast<std::size_t>((p.tokens[n] - begin) * cols + c)] +=
          dx[n * static_cast<std::size_t>(cols) + static_cast<std::size_t>(c)];
  }
  for (std::size_t i = 0; i < add.size(); ++i)
    result[i] += add[i];
  return result;
}

TEST(Embedding, ForwardAddsItsTablesInEveryDtypeAndLayout) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t cols : {1, 7, 20, 64, 771})
      for (const bool with_all : {false, true}) {
        Problem p(dtype, cols, with_all ? 3 : 0);
        core::MemoryTracker memory;
        OpContext context(2, memory);
        const core::TensorView none;
        embedding_forward(context, p.tokens, kLength, p.table.view(),
                          with_all ? p.positions.view() : none,
                          with_all ? p.type_row.vector_view() : none, p.out.view());
        const auto width = static_cast<std::size_t>(cols);
        const std::vector<double> table = p.table.values(), positions = p.positions.values(),
                                  type_row = p.type_row.values();
        std::vector<double> expected(p.tokens.size() * width);
        for (std::size_t n = 0; n < p.tokens.size(); ++n)
          for (std::size_t c = 0; c < width; ++c) {
            expected[n * width + c] = table[static_cast<std::size_t>(p.tokens[n]) * width + c];
            if (with_all)
              expected[n * width + c] += positions[n % kLength * width + c] + type_row[c];
          }
        test::expect_close(p.out.values(), expected, with_all ? test::tolerance_of(dtype) : 0.0,
                           std::string(core::name_of(dtype)));
        EXPECT_TRUE(p.out.gaps_intact());
      }
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  for (const std::int32_t id : {-1, static_cast<std::int32_t>(kVocabulary)}) {
    Problem p(DType::kF32, 8);
    p.tokens[9] = id;
    core::MemoryTracker memory;
    OpContext context(1, memory);
    try {
      embedding_forward(context, p.tokens, kLength, p.table.view(), {}, {}, p.out.view());
      FAIL() << "id " << id << " was accepted";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      const std::string message = error.what();
      EXPECT_NE(message.find("id " + std::to_string(id)), std::string::npos) << message;
      EXPECT_NE(message.find("position 9"), std::string::npos) << message;
      EXPECT_NE(message.find("13"), std::string::npos) << message;
    }
  }
}

TEST(Embedding, BackwardSumsByTokenInEveryDtypeAndRange) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t cols : {1, 7, 64, 771})
      for (const auto& [begin, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {0, kVocabulary}, {0, 4}, {4, 9}, {9, kVocabulary}, {6, 6}})
        for (const bool with_add : {false, true}) {
          Problem p(dtype, cols, 3);
          HostTensor add(core::accumulate_dtype(dtype), end - begin, cols);
          HostTensor dtable(dtype, end - begin, cols, 2);
          if (begin < end) add.randomize(5);
          core::MemoryTracker memory;
          OpContext context(2, memory);
          embedding_backward(context, p.tokens, p.dx.view(), begin, end,
                             with_add ? add.view() : core::TensorView(), dtable.view());
          test::expect_close(dtable.values(),
                             reference_gradient(p, cols, begin, end,
                                                with_add ? add.values() : std::vector<double>{}),
                             test::tolerance_of(dtype), std::string(core::name_of(dtype)));
          EXPECT_TRUE(dtable.gaps_intact());
        }
}

// In fp32 the order of a sum shows in its bits.
TEST(Embedding, BackwardAddsInOrderOfPosition) {
  Problem p(DType::kF32, 3);
  std::fill(p.tokens.begin(), p.tokens.end(), 2);
  p.dx.randomize(6, 0.0, 100.0);
  HostTensor dtable(DType::kF32, kVocabulary, 3);
  core::MemoryTracker memory;
  OpContext context(2, memory);
  embedding_backward(context, p.tokens, p.dx.view(), 0, kVocabulary, {}, dtable.view());
  for (std::int64_t c = 0; c < 3; ++c) {
    float expected = p.dx.view().row<float>(0)[c];
    for (std::int64_t n = 1; n < kTokens; ++n)
      expected += p.dx.view().row<float>(n)[c];
    EXPECT_EQ(dtable.view().row<float>(2)[c], expected);
  }
}

TEST(Embedding, BitsDoNotDependOnThreads) {
  for (const DType dtype : test::floating_dtypes()) {
    const std::int64_t cols = 5000;  // several chunks
    Problem p(dtype, cols);
    const auto run = [&](int threads) {
      core::MemoryTracker memory;
      OpContext context(threads, memory);
      HostTensor dtable(dtype, kVocabulary, cols);
      embedding_forward(context, p.tokens, kLength, p.table.view(), p.positions.view(),
                        p.type_row.vector_view(), p.out.view());
      embedding_backward(context, p.tokens, p.dx.view(), 0, kVocabulary, {}, dtable.view());
      return std::pair(p.out, dtable);
    };
    const auto one = run(1);
    EXPECT_EQ(run(2), one);
    EXPECT_EQ(run(3), one);
  }
}

TEST(Embedding, PositionBackwardSumsOverSequences) {
  for (const DType dtype : test::floating_dtypes())
    for (const std::int64_t cols : {1, 7, 64, 771}) {
      Problem p(dtype, cols, 3);
      HostTensor dpositions(dtype, kLength + 2, cols, 1);
      core::MemoryTracker memory;
      OpContext context(2, memory);
      position_backward(context, p.dx.view(), kLength, dpositions.view());
      const auto width = static_cast<std::size_t>(cols);
      const std::vector<double> dx = p.dx.values();
      std::vector<double> expected((kLength + 2) * width, 0.0);
      for (std::size_t n = 0; n < kTokens; ++n)
        for (std::size_t c = 0; c < width; ++c)
          expected[n % kLength * width + c] += dx[n * width + c];
      test::expect_close(dpositions.values(), expected, test::tolerance_of(dtype),
                         std::string(core::name_of(dtype)));
      EXPECT_TRUE(dpositions.gaps_intact());
    }
}

}  // namespace
}  // namespace lockstep::ops
