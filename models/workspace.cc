#include "models/workspace.h"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "ops/cpu/scratch_sizes.h"

namespace lockstep::models {

namespace cpu = ops::cpu;

namespace {

// Visits the ops of a step as the layers of the same names call them, and keeps the greatest
// request. C, F, V, N, ... as in ModelConfig.
class Workspace {
 public:
  Workspace(const ModelConfig& config, const ParameterTable& table, core::DType compute,
            std::int64_t max_sequences, const std::vector<BucketSpec>& buckets, int threads)
      : c_(config),
        table_(table),
        compute_(compute),
        accumulate_(core::accumulate_dtype(compute)),
        sequences_(max_sequences),
        tokens_(max_sequences * config.context),
        buckets_(buckets),
        threads_(threads) {}

  std::size_t bytes() {
    embedding();
    attention();
    mlp();
    norm();
    residual();
    head();
    return bytes_;
  }

 private:
  // y [rows, out] = x [rows, in] W^T + b, with rows of x and y so many elements apart.
  struct Linear {
    std::int64_t rows, in, out, stride_x, stride_y;
    bool bias;
  };

  void need(std::size_t bytes) { bytes_ = std::max(bytes_, bytes); }
  void need(const cpu::MatmulSpec& spec) { need(cpu::matmul_scratch(spec, threads_)); }

  void forward(const Linear& l, core::DType output) {
    need(
        {l.rows, l.out, l.in, l.stride_x, l.in, l.stride_y, compute_, output, false, true, l.bias});
  }
  void input_backward(const Linear& l) {
    need({l.rows, l.in, l.out, l.stride_y, l.in, l.stride_x, compute_, compute_, false, false,
          false});
  }
  // Of `weight_rows` of the rows of W.
  void weight_backward(const Linear& l, std::int64_t weight_rows, core::DType output) {
    need({weight_rows, l.in, l.rows, l.stride_y, l.stride_x, l.in, compute_, output, true, false,
          false});
  }
  // Whether backward comes to the blocks.
  bool reaches_blocks() const { return table_.first_trained_group() <= c_.layers; }

  // Whether a tensor, of the head or of some block, has a gradient. name: without "block.3.".
  bool trains(const std::string& name) const {
    for (const ParameterSpec& spec : table_.specs()) {
      const bool same = spec.name == name || spec.name.ends_with("." + name);
      if (same && !spec.frozen) return true;
    }
    return false;
  }

  void gradients(const Linear& l, const std::string& layer) {
    if (trains(layer + ".weight")) weight_backward(l, l.out, compute_);
    if (l.bias && trains(layer + ".bias")) need(cpu::column_sum_scratch(l.rows, l.out, compute_));
  }
  // Of layers of the blocks, of one size.
  void all_of(const Linear& l, std::initializer_list<const char*> layers) {
    forward(l, compute_);
    if (!reaches_blocks()) return;
    input_backward(l);
    for (const char* layer : layers)
      gradients(l, layer);
  }

  // Calls f(rows) for every piece of a parameter.
  template <typename F>
  void for_each_piece(const char* name, F f) {
    const ParameterId id = table_.find(name);
    for (const BucketSpec& bucket : buckets_) {
      for (const ParameterPiece& piece : bucket.pieces) {
        if (piece.parameter == id && id != kNoParameter) f(piece.row_end - piece.row_begin);
      }
    }
  }

  void embedding() {
    for_each_piece("embeddings.token.weight", [&](std::int64_t rows) {
      need(cpu::embedding_backward_scratch(rows, tokens_));
    });
    if (c_.token_types > 0 && trains("embeddings.token_type.weight"))
      need(cpu::column_sum_scratch(tokens_, c_.width, compute_));
    need(cpu::count_nonfinite_scratch(tokens_, c_.width, true));  // in what enters a block
  }

  void attention() {
    const std::int64_t qkv = c_.qkv_width();
    if (c_.family == Family::kGpt) {
      all_of({tokens_, c_.width, qkv, c_.width, qkv, c_.qkv_bias()}, {"attention.qkv"});
    } else {
      all_of({tokens_, c_.width, c_.q_width(), c_.width, qkv, c_.qkv_bias()}, {"attention.q"});
      all_of({tokens_, c_.width, c_.kv_width(), c_.width, qkv, c_.qkv_bias()},
             {"attention.k", "attention.v"});
    }
    all_of({tokens_, c_.q_width(), c_.width, c_.q_width(), c_.width, c_.linear_bias()},
           {"attention.out"});
    if (c_.qk_norm) {
      rms_norm(c_.q_width(), c_.heads, reaches_blocks());
      rms_norm(c_.kv_width(), c_.kv_heads, reaches_blocks());
    }
    ops::AttentionSpec spec;
    spec.sequences = sequences_;
    spec.length = c_.context;
    spec.heads = c_.heads;
    spec.kv_heads = c_.kv_heads;
    spec.head_width = c_.head_width();
    need(cpu::attention_forward_scratch(spec, compute_, threads_));
    if (reaches_blocks()) need(cpu::attention_backward_scratch(spec, compute_, threads_));
  }

  void mlp() {
    all_of({tokens_, c_.width, c_.ffn_width, c_.width, c_.ffn_width, c_.linear_bias()},
           {"mlp.up", "mlp.gate"});
    all_of({tokens_, c_.ffn_width, c_.width, c_.ffn_width, c_.width, c_.linear_bias()},
           {"mlp.down"});
  }

  void norm() {
    const bool backward = reaches_blocks() || c_.final_norm() || c_.task == Task::kMaskedLm;
    if (c_.norm == NormKind::kRmsNorm) return rms_norm(c_.width, 1, backward);
    need(cpu::layer_norm_forward_scratch(tokens_, c_.width, compute_));
    if (backward) need(cpu::layer_norm_backward_scratch(tokens_, c_.width, compute_));
  }

  void rms_norm(std::int64_t width, std::int64_t heads, bool backward) {
    need(cpu::rms_norm_forward_scratch(tokens_, width, compute_));
    if (backward) need(cpu::rms_norm_backward_scratch(tokens_, width, heads, compute_));
  }

  void residual() {
    const bool drops = c_.dropout > 0.0;
    if (!reaches_blocks()) return;
    if (drops || c_.residual_gate != ResidualGate::kNone)
      need(cpu::residual_backward_scratch(tokens_, c_.width, !drops));
  }

  void head() {
    const bool classifies = c_.task == Task::kClassification;
    const std::int64_t rows = classifies ? sequences_ : tokens_;
    const std::int64_t outputs = classifies ? c_.classes : c_.vocab;
    need(cpu::cross_entropy_scratch(rows));
    if (c_.task != Task::kCausalLm) {  // transform, or pooler of the first token of each sequence
      const std::int64_t stride = classifies ? c_.context * c_.width : c_.width;
      const Linear dense{rows, c_.width, c_.width, stride, c_.width, true};
      forward(dense, compute_);
      input_backward(dense);
      gradients(dense, classifies ? "head.pooler" : "head.transform");
    }
    const bool bias = c_.task != Task::kCausalLm;
    const Linear logits{rows, c_.width, outputs, c_.width, outputs, bias};
    forward(logits, accumulate_);
    // The gradient of logits lies in place of them, 16-bit rows in halves of their rows.
    Linear gradient = logits;
    gradient.stride_y *=
        static_cast<std::int64_t>(core::size_of(accumulate_) / core::size_of(compute_));
    input_backward(gradient);
    if (bias && (trains("head.bias") || trains("head.classifier.bias")))
      need(cpu::column_sum_scratch(rows, outputs, compute_));
    if (c_.tie_embeddings && trains("embeddings.token.weight"))
      weight_backward(gradient, outputs, accumulate_);
    for (const char* name : {"head.weight", "head.classifier.weight"}) {
      for_each_piece(name, [&](std::int64_t piece) {
        weight_backward(gradient, std::min(piece, kSplitRows), compute_);
        if (piece % kSplitRows != 0) weight_backward(gradient, piece % kSplitRows, compute_);
      });
    }
  }

  const ModelConfig& c_;
  const ParameterTable& table_;
  core::DType compute_;
  core::DType accumulate_;
  std::int64_t sequences_;
  std::int64_t tokens_;
  const std::vector<BucketSpec>& buckets_;
  int threads_;
  std::size_t bytes_ = 0;
};

}  // namespace

std::size_t workspace_bytes(const ModelConfig& config, const ParameterTable& table,
                            core::DType compute, std::int64_t max_sequences,
                            const std::vector<BucketSpec>& buckets, int threads) {
  return Workspace(config, table, compute, max_sequences, buckets, threads).bytes();
}

}  // namespace lockstep::models
