#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ops/attention.h"

// Attention written as the formula, in double, one full row of probabilities at a time: the oracle
// of attention_test.cc.
namespace lockstep::test {

struct AttentionInputs {
  std::vector<double> q;     // [B*T, H*D]
  std::vector<double> k;     // [B*T, K*D]
  std::vector<double> v;     // [B*T, K*D]
  std::vector<double> dout;  // [B*T, H*D]
};

struct AttentionResults {
  std::vector<double> out;  // [B*T, H*D]
  std::vector<double> lse;  // [B*H, T]
  std::vector<double> dq;
  std::vector<double> dk;
  std::vector<double> dv;
};

class AttentionReference {
 public:
  AttentionReference(const ops::AttentionSpec& spec, const AttentionInputs& inputs)
      : spec_(spec), in_(inputs) {
    result_.out.resize(in_.q.size());
    result_.lse.resize(static_cast<std::size_t>(spec.sequences * spec.heads * spec.length));
    result_.dq.resize(in_.q.size());
    result_.dk.resize(in_.k.size());
    result_.dv.resize(in_.v.size());
    for (std::int64_t b = 0; b < spec.sequences; ++b)
      for (std::int64_t h = 0; h < spec.heads; ++h)
        for (std::int64_t i = 0; i < spec.length; ++i)
          run_row(b, h, i);
  }

  const AttentionResults& results() const { return result_; }

 private:
  // Where head h of position t of sequence b begins in a tensor of `heads` heads.
  std::size_t at(std::int64_t b, std::int64_t t, std::int64_t h, std::int64_t heads) const {
    return static_cast<std::size_t>(((b * spec_.length + t) * heads + h) * spec_.head_width);
  }

  double dot(const double* a, const double* b) const {
    double sum = 0.0;
    for (std::int64_t d = 0; d < spec_.head_width; ++d)
      sum += a[d] * b[d];
    return sum;
  }

  void run_row(std::int64_t b, std::int64_t h, std::int64_t i) {
    const std::int64_t keys = spec_.causal ? i + 1 : spec_.length;
    const auto n = static_cast<std::size_t>(keys);
    const std::int64_t kv = h / (spec_.heads / spec_.kv_heads);
    const std::size_t query = at(b, i, h, spec_.heads);
    std::vector<double> p(n);
    for (std::size_t j = 0; j < n; ++j)
      p[j] = spec_.scale * dot(&in_.q[query], &in_.k[key(b, j, kv)]);
    for (std::int64_t j = 0; spec_.window > 0 && j <= i - spec_.window; ++j)
      p[static_cast<std::size_t>(j)] = -std::numeric_limits<double>::infinity();
    const double maximum = *std::max_element(p.begin(), p.end());
    double sum = 0.0;
    for (double& value : p)
      sum += value = std::exp(value - maximum);
    result_.lse[static_cast<std::size_t>((b * spec_.heads + h) * spec_.length + i)] =
        maximum + std::log(sum);
    for (double& value : p)
      value /= sum;
    std::vector<float> factors(n, 1.0F);
    if (spec_.dropout.active()) {
      ops::dropout_factors(spec_.dropout, spec_.dropout.first_sequence + b,
                           (h * spec_.length + i) * spec_.length, keys, factors.data());
    }
    finish_row(b, kv, query, p, factors);
  }

  std::size_t key(std::int64_t b, std::size_t j, std::int64_t kv) const {
    return at(b, static_cast<std::int64_t>(j), kv, spec_.kv_heads);
  }

  void finish_row(std::int64_t b, std::int64_t kv, std::size_t query, const std::vector<double>& p,
                  const std::vector<float>& factors) {
    const auto width = static_cast<std::size_t>(spec_.head_width);
    std::vector<double> dp(p.size());
    double delta = 0.0;
    for (std::size_t j = 0; j < p.size(); ++j) {
      const auto factor = static_cast<double>(factors[j]);
      const std::size_t row = key(b, j, kv);
      for (std::size_t d = 0; d < width; ++d) {
        result_.out[query + d] += p[j] * factor * in_.v[row + d];
        result_.dv[row + d] += p[j] * factor * in_.dout[query + d];
      }
      dp[j] = factor * dot(&in_.dout[query], &in_.v[row]);
      delta += p[j] * dp[j];
    }
    for (std::size_t j = 0; j < p.size(); ++j) {
      const double ds = p[j] * (dp[j] - delta) * spec_.scale;
      const std::size_t row = key(b, j, kv);
      for (std::size_t d = 0; d < width; ++d) {
        result_.dq[query + d] += ds * in_.k[row + d];
        result_.dk[row + d] += ds * in_.q[query + d];
      }
    }
  }

  ops::AttentionSpec spec_;
  const AttentionInputs& in_;
  AttentionResults result_;
};

}  // namespace lockstep::test
