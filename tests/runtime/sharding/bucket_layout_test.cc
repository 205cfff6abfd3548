#include "runtime/sharding/bucket_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace lockstep::runtime {
namespace {

constexpr std::int64_t kUnlimited = std::int64_t{1} << 40;

models::ModelConfig small_model(models::Family family, bool tied) {
  models::ModelConfig config = models::family_defaults(family);
  config.layers = 2;
  config.heads = 2;
  config.width = 40;
  config.context = 16;
  config.vocab = 1000;
  config.tie_embeddings = tied;
  models::derive_sizes(config);
  return config;
}

std::int64_t rows_of(const models::ParameterSpec& spec) {
  return spec.shape.rank() >= 2 ? spec.shape[0] : 1;
}

// Every element of every parameter lies in exactly one place, in order, and parameters are
// contiguous in the flat space.
void expect_covers_everything_once(const models::ParameterTable& table,
                                   const BucketLayout& layout) {
  std::vector<std::int64_t> next(static_cast<std::size_t>(table.size()), 0);
  for (int b = 0; b < layout.size(); ++b) {
    std::vector<Segment> owned;
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      const std::int64_t begin = rank * layout.shard_elements(b);
      for (const Segment& segment : layout.owned_segments(b, rank)) {
        ASSERT_GE(segment.bucket_begin, begin);
        ASSERT_LE(segment.bucket_begin + segment.count, begin + layout.shard_elements(b));
        owned.push_back(segment);
      }
    }
    for (const Segment& segment : owned) {
      const auto id = static_cast<std::size_t>(segment.parameter);
      ASSERT_GT(segment.count, 0);
      ASSERT_EQ(segment.parameter_begin, next[id]) << table[segment.parameter].name;
      ASSERT_EQ(layout[b].flat_offset + segment.bucket_begin,
                layout.parameter_offset(segment.parameter) + segment.parameter_begin)
          << table[segment.parameter].name << " is not contiguous";
      ASSERT_GE(b, layout.first_bucket(segment.parameter));
      ASSERT_LE(b, layout.last_bucket(segment.parameter));
      next[id] += segment.count;
    }
  }
  for (models::ParameterId id = 0; id < table.size(); ++id)
    EXPECT_EQ(next[static_cast<std::size_t>(id)], table[id].elements()) << table[id].name;
}

void expect_aligned(const BucketLayout& layout) {
  const std::int64_t unit = BucketLayout::kAlignment * layout.world_size();
  std::int64_t flat = 0;
  std::int64_t shard = 0;
  for (int b = 0; b < layout.size(); ++b) {
    const BucketPlacement& bucket = layout[b];
    EXPECT_EQ(bucket.flat_offset, flat);
    EXPECT_EQ(layout.shard_offset(b), shard);
    EXPECT_EQ(bucket.padded % unit, 0);
    EXPECT_GE(bucket.padded, bucket.content);
    EXPECT_LT(bucket.padded - bucket.content, unit);
    EXPECT_EQ(layout.shard_elements(b) % BucketLayout::kAlignment, 0);
    for (const std::int64_t offset : bucket.piece_offsets)
      EXPECT_EQ(offset % BucketLayout::kAlignment, 0);
    flat += bucket.padded;
    shard += layout.shard_elements(b);
  }
  EXPECT_EQ(layout.flat_elements(), flat);
  EXPECT_EQ(layout.shard_total(), shard);
}

TEST(BucketLayout, CoversEverythingExactlyOnceAtEveryWorldSize) {
  for (const models::Family family : {models::Family::kGpt, models::Family::kLlama}) {
    for (const bool tied : {false, true}) {
      const models::ParameterTable table(small_model(family, tied));
      for (int world = 1; world <= 64; ++world) {
        for (const std::int64_t limit : {std::int64_t{1}, std::int64_t{20000}, kUnlimited}) {
          SCOPED_TRACE(::testing::Message()
                       << "tied " << tied << " world " << world << " limit " << limit);
          const BucketLayout layout(table, tied, world, limit, 4);
          expect_covers_everything_once(table, layout);
          expect_aligned(layout);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(BucketLayout, OneBucketPerGroupBelowTheLimit) {
  const models::ParameterTable table(small_model(models::Family::kGpt, false));
  const BucketLayout layout(table, false, 2, kUnlimited, 4);
  std::vector<std::string> names;
  for (const models::BucketSpec& spec : layout.specs())
    names.push_back(spec.name);
  EXPECT_EQ(names, (std::vector<std::string>{"embeddings", "block.0", "block.1", "head"}));
  EXPECT_EQ(layout.bucket_of_block(1), 2);
  EXPECT_EQ(layout.tied_bucket_elements(), 0);
}

TEST(BucketLayout, SplitsEmbeddingsAndHeadByRowsButNeverABlock) {
  const models::ParameterTable table(small_model(models::Family::kGpt, false));
  const std::int64_t limit = 64 * 2 * 40 * 4;  // bytes: 128 rows of 40 fp32
  const BucketLayout layout(table, false, 2, limit, 4);
  const models::ParameterId token = table.find("embeddings.token.weight");
  EXPECT_EQ(layout.last_bucket(token) - layout.first_bucket(token) + 1, 8);  // 1000 rows
  int of_blocks = 0;
  for (int b = 0; b < layout.size(); ++b) {
    const models::GroupIndex group = layout[b].spec.group;
    if (group > 0 && group < table.groups() - 1) {
      ++of_blocks;
      EXPECT_GT(layout[b].padded * 4, limit);
    }
    for (std::size_t i = 0; i < layout[b].spec.pieces.size(); ++i) {
      const models::ParameterPiece& piece = layout[b].spec.pieces[i];
      const bool split =
          layout.first_bucket(piece.parameter) != layout.last_bucket(piece.parameter);
      if (!split) continue;
      EXPECT_LE((piece.row_end - piece.row_begin) * 40 * 4, limit);
      EXPECT_EQ(layout[b].spec.pieces.size(), 1U);
      EXPECT_EQ(layout[b].spec.name.find('.') != std::string::npos, true) << layout[b].spec.name;
    }
  }
  EXPECT_EQ(of_blocks, 2);
}

// A head's cuts lie at multiples of kSplitRows at every number of ranks, so that they never show in
// the bits of its gradient.
TEST(BucketLayout, CutsAHeadAtMultiplesOfSplitRows) {
  models::ModelConfig config = small_model(models::Family::kGpt, false);
  config.vocab = 7000;
  const models::ParameterTable table(config);
  const models::ParameterId head = table.find("head.weight");
  ASSERT_NE(head, models::kNoParameter);
  for (const int ranks : {1, 2, 3, 5, 16}) {
    const BucketLayout layout(table, false, ranks, 1, 4);
    if (ranks != 5) {
      EXPECT_GT(layout.last_bucket(head), layout.first_bucket(head)) << ranks;
    }
    for (int b = layout.first_bucket(head); b <= layout.last_bucket(head); ++b) {
      for (const models::ParameterPiece& piece : layout[b].spec.pieces) {
        if (piece.parameter != head) continue;
        EXPECT_EQ(piece.row_begin % models::kSplitRows, 0) << ranks;
      }
    }
  }
}

// The limit is in bytes of the compute type.
TEST(BucketLayout, SixteenBitElementsSplitHalfAsOften) {
  const models::ParameterTable table(small_model(models::Family::kGpt, false));
  const std::int64_t limit = 64 * 2 * 40 * 4;
  EXPECT_GT(BucketLayout(table, false, 2, limit, 4).size(),
            BucketLayout(table, false, 2, limit, 2).size());
}

TEST(BucketLayout, ATiedTableIsNeverSplit) {
  const models::ParameterTable table(small_model(models::Family::kGpt, true));
  const BucketLayout layout(table, true, 3, 1, 4);
  const models::ParameterId token = table.find("embeddings.token.weight");
  EXPECT_EQ(layout.first_bucket(token), layout.last_bucket(token));
  EXPECT_TRUE(layout[0].holds_tied_table);
  EXPECT_EQ(layout.tied_bucket_elements(), layout[0].padded);
  for (int b = 1; b < layout.size(); ++b) {
    EXPECT_FALSE(layout[b].holds_tied_table);
    EXPECT_LE(layout[b].padded, layout.largest_ring_bucket());
  }
}

TEST(BucketLayout, ATensorMaySpanSeveralRanks) {
  const models::ParameterTable table(small_model(models::Family::kGpt, true));
  const BucketLayout layout(table, true, 4, kUnlimited, 4);
  const models::ParameterId token = table.find("embeddings.token.weight");
  for (int rank = 0; rank < 4; ++rank) {
    const std::vector<Segment> owned = layout.owned_segments(0, rank);
    EXPECT_TRUE(std::any_of(owned.begin(), owned.end(), [&](const Segment& s) {
      return s.parameter == token;
    })) << rank;
  }
}

// A bucket far smaller than 64 elements a rank: one rank owns it, the others own padding.
TEST(BucketLayout, EmptyShards) {
  const models::ParameterTable table(small_model(models::Family::kGpt, true));
  const BucketLayout layout(table, true, 8, kUnlimited, 4);
  const int head = layout.size() - 1;  // the final norm: gain and bias, 40 elements each
  EXPECT_EQ(layout.shard_elements(head), 64);
  EXPECT_EQ(layout.owned_segments(head, 0).size(), 1U);
  EXPECT_EQ(layout.owned_segments(head, 1).size(), 1U);
  for (int rank = 2; rank < 8; ++rank)
    EXPECT_TRUE(layout.owned_segments(head, rank).empty());
}

// Width 1: the final norm of a Llama is a bucket of one element; at 64 ranks most own nothing of
// any bucket.
TEST(BucketLayout, ABucketOfOneElementAndFewerParametersThanRanks) {
  models::ModelConfig config = models::family_defaults(models::Family::kLlama);
  config.layers = 1;
  config.heads = 1;
  config.width = 1;
  config.context = 2;
  config.vocab = 2;
  config.ffn_width = 1;
  config.tie_embeddings = true;
  models::derive_sizes(config);
  const models::ParameterTable table(config);
  ASSERT_LT(table.total_elements(), 64);
  const BucketLayout layout(table, true, 64, kUnlimited, 4);
  const int head = layout.size() - 1;
  const std::vector<Segment> owned = layout.owned_segments(head, 0);
  ASSERT_EQ(owned.size(), 1U);
  EXPECT_EQ(owned[0].count, 1);
  expect_covers_everything_once(table, layout);
  int idle = 0;
  for (int rank = 0; rank < 64; ++rank) {
    bool owns = false;
    for (int b = 0; b < layout.size(); ++b)
      owns = owns || !layout.owned_segments(b, rank).empty();
    if (!owns) ++idle;
  }
  EXPECT_GT(idle, 40);
}

TEST(BucketLayout, SegmentsOfARange) {
  const models::ParameterTable table(small_model(models::Family::kGpt, true));
  const BucketLayout layout(table, true, 1, kUnlimited, 4);
  const int head = layout.size() - 1;
  const std::vector<Segment> part =
      layout.segments(head, 30, 70);  // 30..40 of the gain, 64..70 of the bias
  ASSERT_EQ(part.size(), 2U);
  EXPECT_EQ(part[0].parameter_begin, 30);
  EXPECT_EQ(part[0].bucket_begin, 30);
  EXPECT_EQ(part[0].count, 10);
  EXPECT_EQ(part[1].parameter_begin, 0);
  EXPECT_EQ(part[1].bucket_begin, 64);
  EXPECT_EQ(part[1].count, 6);
  EXPECT_TRUE(layout.segments(head, 40, 64).empty());
  EXPECT_EQ(rows_of(table[part[0].parameter]), 1);
}

}  // namespace
}  // namespace lockstep::runtime
