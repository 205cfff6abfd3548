#include "runtime/optimizer/muon_exchange.h"

#include <algorithm>

namespace lockstep::runtime {

namespace {

using Updated = MuonExchange::Updated;

constexpr std::int64_t kAlignment = BucketLayout::kAlignment;

std::int64_t aligned(std::int64_t n) {
  return (n + kAlignment - 1) / kAlignment * kAlignment;
}

// What of the matrices lies in elements [begin, end) of a bucket, without a place yet.
void add_slices(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout, int bucket,
                std::int64_t begin, std::int64_t end, std::vector<Updated>& slices) {
  for (const Segment& segment : layout.segments(bucket, begin, end)) {
    auto m = static_cast<std::size_t>(
        std::lower_bound(matrices.begin(), matrices.end(), segment.parameter,
                         [](const MuonMatrix& a, int id) { return a.parameter < id; }) -
        matrices.begin());
    for (; m < matrices.size() && matrices[m].parameter == segment.parameter; ++m) {
      const MuonMatrix& matrix = matrices[m];
      const std::int64_t low = std::max(segment.parameter_begin, matrix.begin());
      const std::int64_t high =
          std::min(segment.parameter_begin + segment.count, matrix.begin() + matrix.elements());
      if (low >= high) continue;
      const MuonSlice slice{static_cast<int>(m), low - matrix.begin(), high - matrix.begin(), 0};
      const Segment part{segment.parameter, low,
                         segment.bucket_begin + low - segment.parameter_begin, high - low};
      slices.push_back({slice, bucket, part});
    }
  }
}

std::vector<Updated> slices_of(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout,
                               bool whole, int rank) {
  std::vector<Updated> slices;
  for (int b = 0; b < layout.size(); ++b) {
    const std::int64_t shard = whole ? layout[b].padded : layout.shard_elements(b);
    const std::int64_t begin = whole ? 0 : rank * shard;
    add_slices(matrices, layout, b, begin, begin + shard, slices);
  }
  return slices;
}

}  // namespace

MuonExchange::MuonExchange(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout,
                           bool whole, int rank)
    : whole_(whole), owners_(muon_owners(matrices, layout.world_size())) {
  whole ? plan_whole(matrices, layout, rank) : plan_sharded(matrices, layout, rank);
}

void MuonExchange::plan_whole(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout,
                              int rank) {
  std::vector<std::int64_t> filled(static_cast<std::size_t>(layout.world_size()));
  std::vector<std::int64_t> places;  // of each matrix in its owner's part
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    std::int64_t& end = filled[static_cast<std::size_t>(owners_[m])];
    places.push_back(end);
    end += aligned(matrices[m].elements());
  }
  const std::int64_t count = *std::max_element(filled.begin(), filled.end());
  elements_ = count * layout.world_size();
  const auto place_of = [&](int matrix) {
    const auto m = static_cast<std::size_t>(matrix);
    return owners_[m] * count + places[m];
  };
  updated_ = slices_of(matrices, layout, true, rank);
  for (Updated& each : updated_)
    each.slice.place = place_of(each.slice.matrix) + each.slice.begin;
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (owners_[m] != rank) continue;
    const auto matrix = static_cast<int>(m);
    owned_.push_back({{matrix, 0, matrices[m].elements(), place_of(matrix)}});
  }
}

void MuonExchange::plan_sharded(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout,
                                int rank) {
  const int ranks = layout.world_size();
  std::vector<std::vector<Updated>> held;  // by the rank that holds them
  std::int64_t count = 0;
  for (int r = 0; r < ranks; ++r) {
    held.push_back(slices_of(matrices, layout, false, r));
    std::vector<std::int64_t> filled(static_cast<std::size_t>(ranks));  // by owner
    for (Updated& each : held.back()) {
      const int owner = owners_[static_cast<std::size_t>(each.slice.matrix)];
      std::int64_t& end = filled[static_cast<std::size_t>(owner)];
      each.slice.place = end;
      end += aligned(each.slice.count());
      count = std::max(count, end);
    }
  }
  elements_ = count * ranks;
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (owners_[m] != rank) continue;
    owned_.emplace_back();
    for (int r = 0; r < ranks; ++r) {
      for (const Updated& each : held[static_cast<std::size_t>(r)]) {
        if (each.slice.matrix != static_cast<int>(m)) continue;
        owned_.back().push_back(each.slice);
        owned_.back().back().place += r * count;
      }
    }
  }
  updated_ = std::move(held[static_cast<std::size_t>(rank)]);
  for (Updated& each : updated_)
    each.slice.place += owners_[static_cast<std::size_t>(each.slice.matrix)] * count;
}

}  // namespace lockstep::runtime
