#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::runtime {

// (left id, right id) -> (rank, id of the merged token): a hash table by open addressing, read far
// more often than written.
class PairTable {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;  // as rank: not in the table

  struct Merge {
    std::uint32_t rank = kNone;
    std::int32_t id = 0;
  };

  explicit PairTable(std::size_t most = 0) : slots_(capacity_for(most)) {}

  // Room was made for it by the constructor. A pair that is there already gets the new value.
  void set(std::int32_t left, std::int32_t right, Merge merge) {
    Slot& slot = slots_[find(key_of(left, right))];
    slot = {key_of(left, right), merge};
  }

  Merge at(std::int32_t left, std::int32_t right) const {
    return slots_[find(key_of(left, right))].merge;
  }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // ids are below 2^31
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge;
  };

  static std::size_t capacity_for(std::size_t most) {
    std::size_t capacity = 16;
    while (capacity < 2 * most)
      capacity *= 2;
    return capacity;
  }

  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  }

  std::size_t find(std::uint64_t key) const {
    std::size_t at = (key * 0x9E3779B97F4A7C15ULL) >> 20 & (slots_.size() - 1);
    while (slots_[at].key != key && slots_[at].key != kEmpty)
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
};

}  // namespace lockstep::runtime
