#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"
#include "core/random.h"
#include "models/model_config.h"
#include "models/model_io.h"
#include "models/parameter_table.h"

// Parameters, gradients and micro-batches in plain memory, for tests that run a model without a
// trainer.
namespace lockstep::test {

// Every parameter of a table in one dtype, at its initial value.
class StoredParameters : public models::ParameterSource {
 public:
  StoredParameters(const models::ParameterTable& table, core::DType dtype, std::uint64_t seed)
      : table_(table), dtype_(dtype) {
    for (const models::ParameterSpec& spec : table.specs()) {
      std::vector<float> values(static_cast<std::size_t>(spec.elements()));
      models::initialize(spec, seed, values.data());
      storage_.emplace_back(values.size() * core::size_of(dtype));
      core::convert(core::DType::kF32, values.data(), dtype, storage_.back().data(), values.size());
    }
  }

  core::ConstTensorView parameter(models::ParameterId id) override { return view(id); }

  core::TensorView view(models::ParameterId id) {
    return {storage_[static_cast<std::size_t>(id)].data(), dtype_, table_[id].shape};
  }
  // The elements of a parameter, to read or alter; T must be the dtype's type.
  template <typename T>
  std::span<T> values(models::ParameterId id) {
    const core::TensorView v = view(id);
    return {v.data<T>(), static_cast<std::size_t>(v.elements())};
  }

  // Adds normal noise to every element, so that no gain is 1, no bias 0 and no gradient vanishes.
  void perturb(double deviation, std::uint64_t seed) {
    for (models::ParameterId id = 0; id < table_.size(); ++id) {
      const auto n = static_cast<std::size_t>(table_[id].elements());
      std::vector<float> noise(n);
      core::fill_normal(core::stream_key(seed, "perturb/" + table_[id].name), 0.0F,
                        static_cast<float>(deviation), noise.data(), n);
      std::vector<float> sum(n);
      core::convert(dtype_, view(id).raw(), core::DType::kF32, sum.data(), n);
      for (std::size_t i = 0; i < n; ++i)
        sum[i] += noise[i];
      core::convert(core::DType::kF32, sum.data(), dtype_, view(id).raw(), n);
    }
  }

 private:
  const models::ParameterTable& table_;
  core::DType dtype_;
  std::vector<std::vector<std::byte>> storage_;
};

inline std::int64_t piece_rows(const models::ParameterSpec& spec) {
  return spec.shape.rank() == 1 ? 1 : spec.shape[0];
}

// One bucket per group, every parameter whole.
inline std::vector<models::BucketSpec> bucket_per_group(const models::ParameterTable& table) {
  std::vector<models::BucketSpec> buckets;
  for (models::GroupIndex group = 0; group < table.groups(); ++group) {
    models::BucketSpec bucket{table.group_name(group), group, {}};
    for (const models::ParameterId id : table.in_group(group)) {
      if (!table[id].frozen) bucket.pieces.push_back({id, 0, piece_rows(table[id])});
    }
    buckets.push_back(std::move(bucket));
  }
  return buckets;
}

// As above, but embeddings and head begin a new bucket after every `rows` rows (a 1-D parameter is
// one row), wherever in a parameter that is.
inline std::vector<models::BucketSpec> split_buckets(const models::ParameterTable& table,
                                                     std::int64_t rows) {
  std::vector<models::BucketSpec> buckets;
  for (models::BucketSpec& whole : bucket_per_group(table)) {
    if (whole.group != 0 && whole.group != table.groups() - 1) {
      buckets.push_back(std::move(whole));
      continue;
    }
    std::int64_t room = 0;
    int part = 0;
    for (const models::ParameterPiece& piece : whole.pieces) {
      for (std::int64_t row = piece.row_begin; row < piece.row_end;) {
        if (room == 0) {
          buckets.push_back({whole.name + "." + std::to_string(part++), whole.group, {}});
          room = rows;
        }
        const std::int64_t end = std::min(piece.row_end, row + room);
        buckets.back().pieces.push_back({piece.parameter, row, end});
        room -= end - row;
        row = end;
      }
    }
  }
  return buckets;
}

// Whole gradients by parameter. Holds backward to its contract: buckets in backward order, each
// once, pieces written completely (they hold NaN when their bucket is opened).
class StoredGradients : public models::GradientSink {
 public:
  StoredGradients(const models::ParameterTable& table, core::DType dtype,
                  std::vector<models::BucketSpec> buckets)
      : table_(table), dtype_(dtype), buckets_(std::move(buckets)) {
    for (const models::ParameterSpec& spec : table.specs())
      storage_.emplace_back(static_cast<std::size_t>(spec.elements()) * core::size_of(dtype));
    begin_backward();
  }
  StoredGradients(const models::ParameterTable& table, core::DType dtype)
      : StoredGradients(table, dtype, bucket_per_group(table)) {}

  const std::vector<models::BucketSpec>& buckets() const override { return buckets_; }

  void begin(int bucket) override {
    EXPECT_FALSE(open_) << "bucket " << bucket << " begun while another is open";
    EXPECT_EQ(bucket, next_) << "buckets are visited in the reverse of their order";
    open_ = true;
    for (std::size_t i = 0; i < buckets_[static_cast<std::size_t>(bucket)].pieces.size(); ++i)
      fill_with_nan(gradient(bucket, static_cast<int>(i)));
  }

  core::TensorView gradient(int bucket, int piece) override {
    EXPECT_TRUE(open_ && bucket == next_) << "bucket " << bucket << " is not open";
    const models::ParameterPiece& p =
        buckets_[static_cast<std::size_t>(bucket)].pieces[static_cast<std::size_t>(piece)];
    const std::int64_t cols = table_[p.parameter].shape.back();
    std::byte* data = storage_[static_cast<std::size_t>(p.parameter)].data() +
                      static_cast<std::size_t>(p.row_begin * cols) * core::size_of(dtype_);
    return {data, dtype_, {p.row_end - p.row_begin, cols}};
  }

  void finish(int bucket) override {
    EXPECT_TRUE(open_ && bucket == next_) << "bucket " << bucket << " finished but not open";
    open_ = false;
    --next_;
    pass_over_frozen();
    if (next_ < 0) {
      ++backwards_;
      begin_backward();
    }
  }

  int backwards() const { return backwards_; }  // complete ones

  core::ConstTensorView whole(models::ParameterId id) const {
    return {storage_[static_cast<std::size_t>(id)].data(), dtype_, table_[id].shape};
  }
  template <typename T>
  std::span<const T> values(models::ParameterId id) const {
    const core::ConstTensorView v = whole(id);
    return {v.data<T>(), static_cast<std::size_t>(v.elements())};
  }
  // The bytes of all gradients in canonical order, to compare runs bit by bit.
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    for (const std::vector<std::byte>& part : storage_)
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }

 private:
  void begin_backward() {
    next_ = static_cast<int>(buckets_.size()) - 1;
    pass_over_frozen();
  }
  void pass_over_frozen() {
    while (next_ >= 0 && buckets_[static_cast<std::size_t>(next_)].pieces.empty())
      --next_;
  }
  void fill_with_nan(core::TensorView view) {
    const auto n = static_cast<std::size_t>(view.elements());
    const std::vector<float> nans(n, std::numeric_limits<float>::quiet_NaN());
    core::convert(core::DType::kF32, nans.data(), dtype_, view.raw(), n);
  }

  const models::ParameterTable& table_;
  core::DType dtype_;
  std::vector<models::BucketSpec> buckets_;
  std::vector<std::vector<std::byte>> storage_;
  bool open_ = false;
  int next_ = -1;
  int backwards_ = 0;
};

// A model small enough for finite differences: 2 blocks, width 8, 2 heads of 4, V 11, context 5.
inline models::ModelConfig tiny_config(models::Family family) {
  models::ModelConfig config = models::family_defaults(family);
  config.layers = 2;
  config.heads = 2;
  config.width = 8;
  config.ffn_width = 12;
  config.context = 5;
  config.vocab = 11;
  config.init_std = 0.3;
  models::derive_sizes(config);
  return config;
}

// Random tokens and targets that own their memory. Every fifth target is ignored (never all of
// them); classification has one class per sequence.
class TokenBatch {
 public:
  TokenBatch(const models::ModelConfig& config, std::int64_t sequences, std::int64_t length,
             std::uint64_t seed)
      : sequences_(sequences), length_(length) {
    const bool classifies = config.task == models::Task::kClassification;
    const auto n = static_cast<std::size_t>(sequences * length);
    const core::Philox4x32Key key = core::stream_key(seed, "token batch");
    for (std::size_t i = 0; i < n; ++i) {
      const core::Philox4x32Block block = core::stream_block(key, i);
      inputs_.push_back(static_cast<std::int32_t>(block[0] % config.vocab));
      if (!classifies) {
        targets_.push_back(i % 5 == 2 ? ops::kIgnored
                                      : static_cast<std::int32_t>(block[1] % config.vocab));
      } else if (i < static_cast<std::size_t>(sequences)) {
        targets_.push_back(static_cast<std::int32_t>(block[1] % config.classes));
      }
    }
  }

  models::MicroBatch batch() const { return slice(0, sequences_); }

  // Sequences [begin, end) as a micro-batch of their own, at the same global indices.
  models::MicroBatch slice(std::int64_t begin, std::int64_t end) const {
    const std::int64_t per_sequence = static_cast<std::int64_t>(targets_.size()) / sequences_;
    const auto part = [&](const std::vector<std::int32_t>& all, std::int64_t each) {
      return std::span<const std::int32_t>(all).subspan(
          static_cast<std::size_t>(begin * each), static_cast<std::size_t>((end - begin) * each));
    };
    models::MicroBatch batch;
    batch.sequences = end - begin;
    batch.length = length_;
    batch.inputs = part(inputs_, length_);
    batch.targets = part(targets_, per_sequence);
    batch.step = 3;
    batch.first_sequence = 6 + begin;
    return batch;
  }

 private:
  std::int64_t sequences_;
  std::int64_t length_;
  std::vector<std::int32_t> inputs_;
  std::vector<std::int32_t> targets_;
};

}  // namespace lockstep::test
