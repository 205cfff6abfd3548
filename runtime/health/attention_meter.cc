#include "runtime/health/attention_meter.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include "core/dtype.h"
#include "models/parametrization.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/vector_math.h"

namespace lockstep::runtime {

namespace {

// Positions [begin, end) that position t of a sequence sees.
struct Sight {
  std::int64_t begin;
  std::int64_t end;

  std::int64_t count() const { return end - begin; }
};

Sight sight_of(const models::ModelConfig& config, int block, std::int64_t t, std::int64_t length) {
  if (!config.causal()) return {0, length};
  const std::int64_t window = config.window_of(block);
  return {window > 0 ? std::max<std::int64_t>(0, t + 1 - window) : 0, t + 1};
}

// One head's queries [T, D] and keys [D, T], in fp32.
class Head {
 public:
  Head(const models::ModelConfig& config, core::ConstTensorView qk, std::int64_t head)
      : length_(qk.rows()),
        width_(config.head_width()),
        queries_(static_cast<std::size_t>(length_ * width_)),
        keys_(queries_.size()),
        scores_(static_cast<std::size_t>(length_)) {
    const std::int64_t kv_head = head / (config.heads / config.kv_heads);
    std::vector<float> key(static_cast<std::size_t>(width_));
    for (std::int64_t t = 0; t < length_; ++t) {
      read(qk, t, head * width_, queries_.data() + t * width_);
      read(qk, t, config.q_width() + kv_head * width_, key.data());
      for (std::int64_t d = 0; d < width_; ++d)
        keys_[static_cast<std::size_t>(d * length_ + t)] = key[static_cast<std::size_t>(d)];
    }
  }

  // Of position t with what it sees: [sight.count()], valid until the next call.
  const float* scores(std::int64_t t, const Sight& sight, float scale) {
    float* const out = scores_.data();
    std::fill_n(out, sight.count(), 0.0F);
    for (std::int64_t d = 0; d < width_; ++d) {
      const float q = queries_[static_cast<std::size_t>(t * width_ + d)] * scale;
      const float* const k = keys_.data() + d * length_ + sight.begin;
#pragma omp simd
      for (std::int64_t j = 0; j < sight.count(); ++j)
        out[j] += q * k[j];
    }
    return out;
  }

 private:
  void read(core::ConstTensorView qk, std::int64_t row, std::int64_t col, float* to) const {
    const auto at = static_cast<std::size_t>(row * qk.row_stride() + col);
    core::convert(qk.dtype(),
                  static_cast<const std::byte*>(qk.raw()) + at * core::size_of(qk.dtype()),
                  core::DType::kF32, to, static_cast<std::size_t>(width_));
  }

  std::int64_t length_;
  std::int64_t width_;
  std::vector<float> queries_;
  std::vector<float> keys_;
  std::vector<float> scores_;
};

// Entropy of softmax(scores): log(sum) - sum of e^(s - m) (s - m) over that sum, m the maximum.
double entropy(const float* scores, std::int64_t n, float maximum) {
  float sum = 0.0F;
  float weighted = 0.0F;
#pragma omp simd reduction(+ : sum, weighted)
  for (std::int64_t j = 0; j < n; ++j) {
    const float above = scores[j] - maximum;
    const float weight = ops::cpu::vector_exp(above);
    sum += weight;
    weighted += weight > 0.0F ? weight * above : 0.0F;
  }
  return std::log(static_cast<double>(sum)) - static_cast<double>(weighted) / sum;
}

AttentionScores measure_head(const models::ModelConfig& config, int block, core::ConstTensorView qk,
                             std::int64_t index) {
  Head head(config, qk, index);
  const auto scale = static_cast<float>(models::attention_scale(config));
  AttentionScores found;
  for (std::int64_t t = 0; t < qk.rows(); ++t) {
    const Sight sight = sight_of(config, block, t, qk.rows());
    if (sight.count() < 2) continue;
    const float* const scores = head.scores(t, sight, scale);
    float maximum = scores[0];
    for (std::int64_t j = 1; j < sight.count(); ++j)
      maximum = std::max(maximum, scores[j]);
    AttentionScores row;
    row.logit_max = maximum;
    row.entropy.add(entropy(scores, sight.count(), maximum) /
                    std::log(static_cast<double>(sight.count())));
    row.rows = 1;
    found.merge(row);
  }
  return found;
}

}  // namespace

void AttentionScores::merge(const AttentionScores& other) {
  if (other.rows == 0) return;
  logit_max = rows == 0 ? other.logit_max : std::max(logit_max, other.logit_max);
  entropy.merge(other.entropy);
  rows += other.rows;
}

AttentionScores measure_attention(const ops::OpContext& context, const models::ModelConfig& config,
                                  int block, core::ConstTensorView qk) {
  AttentionScores all;
  std::mutex mutex;
  ops::cpu::parallel_chunks(context, config.heads, 1,
                            [&](std::int64_t head, std::int64_t, std::int64_t) {
                              const AttentionScores part = measure_head(config, block, qk, head);
                              const std::lock_guard lock(mutex);
                              all.merge(part);
                            });
  return all;
}

}  // namespace lockstep::runtime
