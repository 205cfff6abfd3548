#include "runtime/sharding/gradient_buckets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "comm/local/local_world.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "ops/op_context.h"
#include "runtime/sharding/gradient_norm.h"
#include "tests/support/recording_communicator.h"

namespace lockstep::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Case {
  int ranks = 2;
  std::int64_t rounds = 2;
  int stage = 2;
  GradSync sync = GradSync::kEveryRound;
  core::DType compute = core::DType::kF32;
  core::DType wire = core::DType::kF32;
  bool tied = true;
  bool overlap = true;
};

float rounded(core::DType dtype, float value) {
  std::array<std::byte, 4> storage{};
  core::convert(core::DType::kF32, &value, dtype, storage.data(), 1);
  core::convert(dtype, storage.data(), core::DType::kF32, &value, 1);
  return value;
}

// Element i of a parameter's gradient in global micro-batch j, rounded to the compute type.
float leaf_value(const Case& c, std::int64_t j, models::ParameterId id, std::int64_t i) {
  const std::uint64_t bits = core::hash64(&i, sizeof(i), static_cast<std::uint64_t>(j * 1000 + id));
  return rounded(c.compute, static_cast<float>(static_cast<double>(bits >> 11) * 0x1p-53 - 0.5));
}

// As the header has it. every_round: left to right by global micro-batch, each rounded to the
// wire's type; boundary: each rank's own sum, rounded, then by rank.
float expected_sum(const Case& c, models::ParameterId id, std::int64_t i) {
  float sum = 0.0F;
  if (c.sync == GradSync::kEveryRound) {
    for (std::int64_t j = 0; j < c.ranks * c.rounds; ++j) {
      const float value = rounded(c.wire, leaf_value(c, j, id, i));
      sum = j == 0 ? value : sum + value;
    }
    return sum;
  }
  for (int rank = 0; rank < c.ranks; ++rank) {
    float own = 0.0F;
    for (std::int64_t k = 0; k < c.rounds; ++k) {
      const float value = leaf_value(c, k * c.ranks + rank, id, i);
      own = k == 0 ? value : own + value;
    }
    own = rounded(c.wire, own);
    sum = rank == 0 ? own : sum + own;
  }
  return sum;
}

// The buckets of one rank, and a stand-in for backward.
class OneRank {
 public:
  OneRank(const Case& c, const models::ParameterTable& table, comm::Communicator& communicator)
      : case_(c),
        table_(table),
        layout_(table, c.tied, c.ranks, 4096, 4),
        log_(communicator.rank(), c.ranks, core::LogLevel::kError),
        context_(1, memory_),
        rank_(communicator.rank()),
        buckets_(table, layout_, {c.compute, c.wire, c.stage, c.sync, c.rounds, c.overlap},
                 communicator, context_, {}, memory_) {}

  // Fills every element of the bucket's memory that belongs to no parameter with NaN.
  void poison_padding(int b, const core::TensorView& first_piece) {
    const std::size_t size = core::size_of(case_.compute);
    auto* base = static_cast<std::byte*>(first_piece.raw());  // piece 0 begins the bucket
    std::vector<char> used(static_cast<std::size_t>(layout_[b].padded), 0);
    for (const Segment& s : layout_.segments(b, 0, layout_[b].padded)) {
      for (std::int64_t i = 0; i < s.count; ++i)
        used[static_cast<std::size_t>(s.bucket_begin + i)] = 1;
    }
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (used[i] == 0) core::convert(core::DType::kF32, &kNaN, case_.compute, base + i * size, 1);
    }
  }

  void write_bucket(std::int64_t round, int b) {
    const std::int64_t j = round * case_.ranks + rank_;
    const auto& pieces = layout_[b].spec.pieces;
    buckets_.begin(b);
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      if (pieces[p].parameter == left_out_) continue;
      const core::TensorView out = buckets_.gradient(b, static_cast<int>(p));
      const models::ParameterSpec& spec = table_[pieces[p].parameter];
      const std::int64_t cols = spec.shape.rank() >= 2 ? spec.shape[1] : spec.elements();
      std::vector<float> values(static_cast<std::size_t>(out.elements()));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::int64_t element = pieces[p].row_begin * cols + static_cast<std::int64_t>(i);
        values[i] = leaf_value(case_, j, pieces[p].parameter, element);
        if (rank_ == inf_rank_ && element == 5 &&
            std::ranges::count(inf_parameters_, pieces[p].parameter) > 0)
          values[i] = kInfinity;
      }
      core::convert(core::DType::kF32, values.data(), case_.compute, out.raw(), values.size());
      if (p == 0) poison_padding(b, out);
    }
    buckets_.finish(b);
  }

  void run_step(std::int64_t step) {
    buckets_.begin_step(step);
    for (std::int64_t round = 0; round < case_.rounds; ++round) {
      buckets_.begin_round(round);
      for (int b = layout_.size() - 1; b >= 0; --b) {
        if (b != skipped_bucket_) write_bucket(round, b);
      }
    }
    buckets_.finish_step();
  }

  float sum_of(models::ParameterId id, std::int64_t i) const {
    const bool absent = id == left_out_ || (layout_.first_bucket(id) <= skipped_bucket_ &&
                                            skipped_bucket_ <= layout_.last_bucket(id));
    return absent ? 0.0F : expected_sum(case_, id, i);
  }

  void expect_right_shards() const {
    for (int b = 0; b < layout_.size(); ++b) {
      const float* shard = buckets_.shard(b).data<float>();
      for (const Segment& s : layout_.owned_segments(b, rank_)) {
        const std::int64_t at = s.bucket_begin - rank_ * layout_.shard_elements(b);
        for (std::int64_t i = 0; i < s.count; ++i) {
          ASSERT_EQ(shard[at + i], sum_of(s.parameter, s.parameter_begin + i))
              << layout_[b].spec.name << " " << table_[s.parameter].name << " " << i;
        }
      }
      if (case_.stage != 0) continue;
      const float* whole = buckets_.updated(b).data<float>();
      for (const Segment& s : layout_.segments(b, 0, layout_[b].padded)) {
        for (std::int64_t i = 0; i < s.count; ++i)
          ASSERT_EQ(whole[s.bucket_begin + i], sum_of(s.parameter, s.parameter_begin + i));
      }
    }
  }

  ShardNorm norm() {
    ShardNorm norm(table_, layout_, rank_, context_, memory_);
    norm.measure(buckets_);
    return norm;
  }

  const Case& case_;
  const models::ParameterTable& table_;
  BucketLayout layout_;
  core::MemoryTracker memory_;
  core::Logger log_;
  ops::OpContext context_;
  int rank_;
  GradientBuckets buckets_;
  int skipped_bucket_ = -1;
  models::ParameterId left_out_ = models::kNoParameter;
  int inf_rank_ = -1;
  std::vector<models::ParameterId> inf_parameters_;
};

models::ParameterTable small_table(bool tied) {
  models::ModelConfig config = models::family_defaults(models::Family::kGpt);
  config.layers = 3;
  config.heads = 1;
  config.width = 8;
  config.context = 5;
  config.vocab = 300;
  config.tie_embeddings = tied;
  models::derive_sizes(config);
  return models::ParameterTable(config);
}

void on_every_rank(const Case& c, const std::function<void(OneRank&, comm::Communicator&)>& body) {
  const models::ParameterTable table = small_table(c.tied);
  const comm::LocalWorld world(c.ranks, std::chrono::seconds(30));
  world.run(
      [&](comm::Communicator& communicator) {
        OneRank rank(c, table, communicator);
        body(rank, communicator);
      },
      lockstep::testing::RecordingCommunicator::around);
}

std::string name_of(const Case& c) {
  return fmt::format("{} ranks, {} rounds, stage {}, {}, compute {}, wire {}, {}", c.ranks,
                     c.rounds, c.stage, c.sync == GradSync::kBoundary ? "boundary" : "every_round",
                     core::name_of(c.compute), core::name_of(c.wire), c.tied ? "tied" : "untied");
}

std::vector<Case> all_cases() {
  using core::DType;
  std::vector<Case> cases;
  for (const int ranks : {1, 2, 3, 5}) {
    for (const std::int64_t rounds : {1, 3}) {
      for (const int stage : {0, 1, 2}) {
        for (const GradSync sync : {GradSync::kEveryRound, GradSync::kBoundary}) {
          for (const DType compute : {DType::kF32, DType::kBF16, DType::kF16}) {
            for (const DType wire : {DType::kF32, DType::kBF16, DType::kF16})
              cases.push_back({ranks, rounds, stage, sync, compute, wire, ranks % 2 == 0});
          }
        }
      }
    }
  }
  return cases;
}

// Every plan gives exactly the sum that the contract promises, in two steps on the same memory,
// with NaN in all padding.
TEST(GradientBuckets, SumsAreExactlyAsPromisedAndPaddingNeverCounts) {
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(name_of(c));
    on_every_rank(c, [](OneRank& rank, comm::Communicator&) {
      for (std::int64_t step = 1; step <= 2; ++step) {
        rank.run_step(step);
        rank.expect_right_shards();
        EXPECT_FALSE(rank.buckets_.own_nonfinite().found());
        EXPECT_TRUE(std::isfinite(rank.norm().total().value()));
      }
    });
    if (::testing::Test::HasFailure()) return;
  }
}

// Added up over ranks, the squares are those of a plain loop over every element, once each; by
// parameter too.
TEST(GradientBuckets, SquaresCountEveryElementOnce) {
  for (const int ranks : {1, 3, 4}) {
    for (const bool tied : {false, true}) {
      const Case c{ranks, 1, 2, GradSync::kEveryRound, core::DType::kF32, core::DType::kF32, tied};
      on_every_rank(c, [&](OneRank& rank, comm::Communicator& communicator) {
        rank.run_step(1);
        const ShardNorm mine = rank.norm();
        const std::vector<ops::ExactSum> by_parameter = mine.by_parameter();
        ops::ExactSum total;
        for (const auto& part : communicator.all_gather_small(mine.total(), "total"))
          total.merge(part);
        double expected = 0.0;
        for (models::ParameterId id = 0; id < rank.table_.size(); ++id) {
          double squares = 0.0;
          for (std::int64_t i = 0; i < rank.table_[id].elements(); ++i)
            squares += std::pow(static_cast<double>(expected_sum(c, id, i)), 2);
          ops::ExactSum of_parameter;
          for (const auto& part : communicator.all_gather_small(
                   by_parameter[static_cast<std::size_t>(id)], "parameter"))
            of_parameter.merge(part);
          EXPECT_NEAR(of_parameter.value() / squares, 1.0, 1e-13) << rank.table_[id].name;
          expected += squares;
        }
        EXPECT_NEAR(total.value() / expected, 1.0, 1e-13);
      });
    }
  }
}

// All ranks launch the same buckets: one that backward leaves out, and a tensor in it, count as
// zero.
TEST(GradientBuckets, WhatHasNoGradientCountsAsZero) {
  for (const GradSync sync : {GradSync::kEveryRound, GradSync::kBoundary}) {
    for (const int skipped : {0, 2, -2}) {
      const Case c{3, 2, 2, sync, core::DType::kF32, core::DType::kF32, true};
      on_every_rank(c, [&](OneRank& rank, comm::Communicator&) {
        rank.run_step(1);  // leaves old values in every slot
        rank.skipped_bucket_ = skipped == -2 ? rank.layout_.size() - 1 : skipped;
        rank.left_out_ = rank.layout_[1].spec.pieces[2].parameter;
        rank.run_step(2);
        rank.expect_right_shards();
      });
    }
  }
}

// What a rank reports of itself is its own, before any reduction; every owner sees it in its shard
// of the sum.
TEST(GradientBuckets, NonFiniteElementsAreFoundBeforeAndAfterTheReduction) {
  for (const GradSync sync : {GradSync::kEveryRound, GradSync::kBoundary}) {
    const Case c{3, 2, 2, sync, core::DType::kBF16, core::DType::kBF16, true};
    on_every_rank(c, [](OneRank& rank, comm::Communicator& communicator) {
      rank.inf_rank_ = 1;
      rank.inf_parameters_ = {rank.table_.find("block.1.mlp.up.weight")};
      rank.run_step(1);
      const NonFiniteReport own = rank.buckets_.own_nonfinite();
      EXPECT_EQ(own.found(), rank.rank_ == 1);
      const NonFiniteReport shard = rank.norm().first_nonfinite();
      int owners = 0;
      for (const int found : communicator.all_gather_small(shard.found() ? 1 : 0, "found"))
        owners += found;
      EXPECT_EQ(owners, 1);
      for (const NonFiniteReport& report : {own, shard}) {
        if (!report.found()) continue;
        EXPECT_EQ(report.parameter, rank.inf_parameters_.front());
        EXPECT_EQ(rank.layout_[report.bucket].spec.name, "block.1");
        EXPECT_EQ(report.inf, 1);
        EXPECT_EQ(report.nan, 0);
      }
      EXPECT_EQ(std::isfinite(rank.norm().total().value()), !shard.found());
      rank.inf_rank_ = -1;
      rank.run_step(2);
      EXPECT_FALSE(rank.buckets_.own_nonfinite().found());
      EXPECT_FALSE(rank.norm().first_nonfinite().found());
      rank.expect_right_shards();
    });
  }
}

// Without overlap a bucket is reduced before backward gets on; with it the last ones are under way.
TEST(GradientBuckets, WithoutOverlapABucketIsReducedWhereItIsFinished) {
  for (const GradSync sync : {GradSync::kEveryRound, GradSync::kBoundary}) {
    for (const bool overlap : {true, false}) {
      const Case c{2, 2, 2, sync, core::DType::kBF16, core::DType::kBF16, true, overlap};
      on_every_rank(c, [&](OneRank& rank, comm::Communicator& communicator) {
        const auto& record = lockstep::testing::RecordingCommunicator::of(communicator);
        int most = 0;
        rank.buckets_.begin_step(1);
        for (std::int64_t round = 0; round < c.rounds; ++round) {
          rank.buckets_.begin_round(round);
          for (int b = rank.layout_.size() - 1; b >= 0; --b) {
            rank.write_bucket(round, b);
            most = std::max(most, record.open());
          }
        }
        EXPECT_EQ(most, overlap ? 3 : 0);  // two slots of the ring, one of the tied table
        rank.buckets_.finish_step();
        EXPECT_EQ(record.open(), 0);
        rank.expect_right_shards();
      });
    }
  }
}

// Named is the first in the order in which backward comes by.
TEST(GradientBuckets, OfSeveralNonFiniteTensorsTheLastOfTheLastBucketIsNamed) {
  const Case c{1, 1, 2, GradSync::kEveryRound, core::DType::kF32, core::DType::kF32, true};
  on_every_rank(c, [](OneRank& rank, comm::Communicator&) {
    rank.inf_rank_ = 0;
    for (const char* name : {"block.0.mlp.down.weight", "block.1.mlp.up.weight",
                             "block.1.mlp_norm.weight", "embeddings.token.weight"})
      rank.inf_parameters_.push_back(rank.table_.find(name));
    ASSERT_EQ(std::ranges::count(rank.inf_parameters_, models::kNoParameter), 0);
    rank.run_step(1);
    for (const NonFiniteReport& report :
         {rank.buckets_.own_nonfinite(), rank.norm().first_nonfinite()}) {
      EXPECT_EQ(report.parameter, rank.inf_parameters_[1]);
      EXPECT_EQ(report.inf, 1);
    }
  });
}

TEST(GradientBuckets, TheOrderOfBucketsIsEnforced) {
  const Case c{1, 1, 2, GradSync::kEveryRound, core::DType::kF32, core::DType::kF32, true};
  on_every_rank(c, [](OneRank& rank, comm::Communicator&) {
    rank.buckets_.begin_step(1);
    rank.buckets_.begin_round(0);
    rank.write_bucket(0, 2);
    EXPECT_THROW(rank.buckets_.begin(3), core::Error);  // later in the layout: already past
    EXPECT_THROW(rank.buckets_.begin(2), core::Error);  // twice
    rank.buckets_.begin(1);
    EXPECT_THROW(rank.buckets_.begin(0), core::Error);        // one at a time
    EXPECT_THROW(rank.buckets_.gradient(0, 0), core::Error);  // not open
    EXPECT_THROW(rank.buckets_.finish(0), core::Error);
    rank.buckets_.finish(1);
    rank.buckets_.finish_step();
  });
}

}  // namespace
}  // namespace lockstep::runtime
