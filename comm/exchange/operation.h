#pragma once

#include <cstddef>
#include <cstdint>

#include "comm/exchange/control_block.h"
#include "comm/work.h"

namespace lockstep::comm {

// One exchange: rank s has a slice of its input for each rank d; d reads the slices of all s and
// copies or sums them. Every collective is one exchange, all_reduce two (scatter the sum, gather
// it). Counts are elements.
struct Operation {
  enum class Pattern : std::uint8_t {
    kNothing,        // barrier
    kScatter,        // slice d of the input goes to rank d: reduce_scatter, all_to_all
    kGather,         // the whole input goes to everyone: all_gather
    kFromRoot,       // the same, but only the root has an input: broadcast
    kUnevenScatter,  // slices of `slice` elements, the last ones shorter or empty: all_reduce
    kUnevenGather    // input is such a slice
  };

  Record record;  // what the peers see
  Pattern pattern = Pattern::kNothing;
  bool reduces = false;
  Output mode = Output::kOverwrite;
  core::DType output_dtype = core::DType::kU8;
  const std::byte* input = nullptr;
  std::byte* output = nullptr;
  std::size_t element_bytes = 1;
  std::size_t slice = 0;        // elements of a (full) slice
  std::size_t total = 0;        // of the uneven patterns: elements of the whole vector
  bool after_previous = false;  // its input is the output of the operation before
  // Its data goes other ways (RollCall::announce): only the record is exchanged.
  bool announced = false;
  std::uint64_t announced_bytes = 0;

  // Filled when the operation is queued.
  std::uint64_t index = 0;
  std::uint64_t first_ticket = 0;
  std::uint64_t last_ticket = 0;  // one past the tickets of this operation
  std::uint64_t chunks = 0;
  std::size_t chunk_elements = 1;
  bool posted = false;
  Deadline posted_at{};
  int entered_ranks = 0;  // ranks below this are known to have posted
  bool checked = false;
  std::uint64_t staged_chunks = 0;
  std::uint64_t read_chunks = 0;

  // Elements that `source` has for `target`, and where they begin in source's input.
  std::size_t length(int source, int target) const;
  std::size_t offset(int source, int target) const;
  // The same for one chunk: [chunk_begin, chunk_begin + chunk_length) of that slice.
  std::size_t chunk_begin(std::uint64_t chunk) const { return chunk * chunk_elements; }
  std::size_t chunk_length(int source, int target, std::uint64_t chunk) const;
  // Whether it begins, or ends, the collective of its sequence number: all_reduce is two
  // operations.
  bool first_of_collective() const { return record.phase == 0; }
  bool last_of_collective() const {
    return record.collective != Collective::kAllReduce || record.phase == 1;
  }
  // Whether every target reads the same slice of a source (gather) or its own (scatter).
  bool one_slice_for_all() const;
  // Elements of the input of `source`; of what is put into this rank's output from `source`.
  std::size_t input_elements(int source, int world_size) const;
  std::size_t output_offset(int source) const;

  // Cuts the operation into chunks that fit a staging slot; the same on all ranks.
  void cut(int world_size);
  // Forgets the cut, once nothing of the operation goes through staging or messages.
  void read_whole();
};

}  // namespace lockstep::comm
