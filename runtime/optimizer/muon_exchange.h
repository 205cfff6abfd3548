#pragma once

#include <cstdint>
#include <vector>

#include "runtime/optimizer/muon_matrices.h"
#include "runtime/sharding/bucket_layout.h"

namespace lockstep::runtime {

// Elements [begin, end) of a matrix that lie together, in a shard or in a buffer.
struct MuonSlice {
  int matrix = 0;
  std::int64_t begin = 0;  // within the matrix
  std::int64_t end = 0;
  std::int64_t place = 0;  // first element, in the buffer that is meant

  std::int64_t count() const { return end - begin; }
};

// How directions come to the owners of whole matrices and come back, in fp32: pure arithmetic over
// the layout, the same on every rank.
//
//   sharded (stages 1 and 2)  each rank holds the slices of its shard. They are packed by owner
//   into
//                             `held`, [ranks, count], and an all_to_all brings them to `gathered`,
//                             [ranks, count], packed by the rank that holds them; results take the
//                             same way back. count: of the fullest pair of ranks.
//   whole (stage 0)           each rank holds everything. An owner's matrices lie in its part of
//                             `gathered`, [ranks, count], and an all_gather gives all to everybody.
//                             count: of the fullest owner. There is no `held`.
class MuonExchange {
 public:
  // whole: every rank updates everything.
  MuonExchange(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout, bool whole,
               int rank);

  bool whole() const { return whole_; }
  const std::vector<int>& owners() const { return owners_; }
  std::int64_t elements() const {
    return elements_;
  }  // of `gathered`, and of `held` where there is
     // one
  // What this rank updates, in the order of the layout: places in `held`, or in `gathered` if
  // whole. bucket and segment of each say where in the rank's part of the model they lie.
  struct Updated {
    MuonSlice slice;
    int bucket = 0;
    Segment segment;  // of the layout: the part of it that is this slice
  };
  const std::vector<Updated>& updated() const { return updated_; }
  // What this rank iterates, a list of slices for each of its matrices: places in `gathered`.
  const std::vector<std::vector<MuonSlice>>& owned() const { return owned_; }

 private:
  void plan_whole(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout, int rank);
  void plan_sharded(const std::vector<MuonMatrix>& matrices, const BucketLayout& layout, int rank);

  bool whole_;
  std::vector<int> owners_;
  std::int64_t elements_ = 0;
  std::vector<Updated> updated_;
  std::vector<std::vector<MuonSlice>> owned_;
};

}  // namespace lockstep::runtime
