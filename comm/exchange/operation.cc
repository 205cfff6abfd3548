#include "comm/exchange/operation.h"

#include <algorithm>

#include "comm/exchange/node.h"

namespace lockstep::comm {

namespace {

std::size_t uneven_begin(std::size_t total, std::size_t slice, int rank) {
  return std::min(total, slice * static_cast<std::size_t>(rank));
}

}  // namespace

std::size_t Operation::length(int source, int target) const {
  switch (pattern) {
    case Pattern::kNothing:
      return 0;
    case Pattern::kScatter:
    case Pattern::kGather:
      return slice;
    case Pattern::kFromRoot:
      return source == record.root ? slice : 0;
    case Pattern::kUnevenScatter:
      return uneven_begin(total, slice, target + 1) - uneven_begin(total, slice, target);
    case Pattern::kUnevenGather:
      return uneven_begin(total, slice, source + 1) - uneven_begin(total, slice, source);
  }
  return 0;
}

std::size_t Operation::offset(int, int target) const {
  if (pattern == Pattern::kScatter) return slice * static_cast<std::size_t>(target);
  if (pattern == Pattern::kUnevenScatter) return uneven_begin(total, slice, target);
  return 0;
}

std::size_t Operation::chunk_length(int source, int target, std::uint64_t chunk) const {
  const std::size_t all = length(source, target);
  const std::size_t begin = std::min(all, chunk_begin(chunk));
  return std::min(chunk_elements, all - begin);
}

bool Operation::one_slice_for_all() const {
  return pattern != Pattern::kScatter && pattern != Pattern::kUnevenScatter;
}

std::size_t Operation::input_elements(int source, int world_size) const {
  if (pattern == Pattern::kUnevenScatter) return total;
  if (pattern == Pattern::kScatter) return slice * static_cast<std::size_t>(world_size);
  return length(source, 0);
}

std::size_t Operation::output_offset(int source) const {
  if (reduces || pattern == Pattern::kFromRoot) return 0;
  if (pattern == Pattern::kUnevenGather) return uneven_begin(total, slice, source);
  return slice * static_cast<std::size_t>(source);
}

void Operation::cut(int world_size) {
  const std::size_t parts = one_slice_for_all() ? 1 : static_cast<std::size_t>(world_size);
  const std::size_t fit = Node::kSlotBytes / (parts * element_bytes);
  chunk_elements = fit >= 64 ? fit / 64 * 64 : std::max<std::size_t>(fit, 1);
  chunks = (slice + chunk_elements - 1) / chunk_elements;
  if (pattern == Pattern::kNothing) chunks = 0;
}

void Operation::read_whole() {
  chunk_elements = std::max<std::size_t>(slice, 1);
  chunks = std::min<std::uint64_t>(chunks, 1);
}

}  // namespace lockstep::comm
