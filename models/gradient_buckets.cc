#include "models/gradient_buckets.h"

#include "core/check.h"

namespace lockstep::models {

namespace {

// The sink's [rows, cols] view of a piece; 1-D parameters get back their one dimension.
core::TensorView piece_view(GradientSink& sink, const ParameterTable& table, int bucket,
                            int piece_index, const ParameterPiece& piece) {
  const core::Shape& shape = table[piece.parameter].shape;
  const core::TensorView view = sink.gradient(bucket, piece_index);
  const std::int64_t rows = piece.row_end - piece.row_begin;
  if (shape.rank() == 1) {
    LOCKSTEP_CHECK(piece.row_begin == 0 && rows == 1, "{} is 1-D and cannot be split",
                   table[piece.parameter].name);
    return view.reshaped(shape);
  }
  return view.reshaped({rows, shape.back()});
}

}  // namespace

BlockGradients::BlockGradients(GradientSink& sink, const ParameterTable& table, GroupIndex group)
    : sink_(sink), table_(table) {
  const std::vector<BucketSpec>& buckets = sink.buckets();
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    if (buckets[b].group != group) continue;
    LOCKSTEP_CHECK(bucket_ < 0, "{} has more than one bucket", table.group_name(group));
    bucket_ = static_cast<int>(b);
  }
  LOCKSTEP_CHECK(bucket_ >= 0, "{} has no bucket", table.group_name(group));
  if (!pieces().empty()) sink_.begin(bucket_);
}

const std::vector<ParameterPiece>& BlockGradients::pieces() const {
  return sink_.buckets()[static_cast<std::size_t>(bucket_)].pieces;
}

core::TensorView BlockGradients::gradient(ParameterId id) {
  if (id == kNoParameter) return {};
  for (std::size_t i = 0; i < pieces().size(); ++i) {
    const ParameterPiece& piece = pieces()[i];
    if (piece.parameter != id) continue;
    const core::Shape& shape = table_[id].shape;
    const std::int64_t rows = shape.rank() == 1 ? 1 : shape[0];
    LOCKSTEP_CHECK(piece.row_begin == 0 && piece.row_end == rows, "{} is split", table_[id].name);
    return piece_view(sink_, table_, bucket_, static_cast<int>(i), piece);
  }
  LOCKSTEP_CHECK(table_[id].frozen, "{} is not in the bucket of its block", table_[id].name);
  return {};
}

void BlockGradients::finish() {
  if (!pieces().empty()) sink_.finish(bucket_);
}

void write_group(GradientSink& sink, const ParameterTable& table, GroupIndex group,
                 const WritePiece& write) {
  const std::vector<BucketSpec>& buckets = sink.buckets();
  for (auto b = static_cast<int>(buckets.size()) - 1; b >= 0; --b) {
    const BucketSpec& bucket = buckets[static_cast<std::size_t>(b)];
    if (bucket.group != group || bucket.pieces.empty()) continue;
    sink.begin(b);
    for (std::size_t i = 0; i < bucket.pieces.size(); ++i) {
      const ParameterPiece& piece = bucket.pieces[i];
      write(piece, piece_view(sink, table, b, static_cast<int>(i), piece));
    }
    sink.finish(b);
  }
}

}  // namespace lockstep::models
