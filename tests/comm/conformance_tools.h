#pragma once

#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/hash.h"
#include "core/memory.h"
#include "tests/comm/conformance.h"
#include "tests/comm/reference.h"

namespace lockstep::comm::testing {

// Where the buffers of a call lie. kOffset: shared, three elements behind an aligned address.
enum class Memory { kPlain, kShared, kOffset, kMixed };

// n elements of T on this rank, in memory of the wanted kind. Collective when shared.
template <typename T>
class Elements {
 public:
  Elements(const Site& site, core::MemoryTracker& tracker, Memory memory, std::size_t n,
           BufferUse use = BufferUse::kReduced)
      : site_(site), n_(n) {
    Communicator& comm = site.comm;
    if (memory != Memory::kPlain) {
      const std::size_t bytes = (n + 3) * sizeof(T);
      shared_ = site.on_device() ? comm.allocate(bytes, "test", tracker, use)
                                 : comm.allocate_host(bytes, "test", tracker);
    }
    if (memory == Memory::kMixed) {
      memory = site.alike || comm.rank() % 2 == 0 ? Memory::kShared : Memory::kPlain;
    }
    if (memory == Memory::kPlain) {
      plain_ = core::Buffer(tracker, "test", (n + 1) * sizeof(T), site.device);
      data_ = static_cast<T*>(plain_.data());
    } else {
      data_ = static_cast<T*>(shared_.data()) + (memory == Memory::kOffset ? 3 : 0);
    }
  }

  T* data() { return data_; }
  core::TensorView view() { return part(0, n_); }
  core::TensorView part(std::size_t begin, std::size_t count) {
    return core::TensorView(data_ + begin, core::DTypeOf<T>::value,
                            {static_cast<std::int64_t>(count)}, site_.device.device);
  }
  void fill(const std::vector<T>& values, std::size_t at = 0) {
    if (values.empty()) return;
    if (site_.on_device()) {
      site_.stream->to_device(data_ + at, values.data(), values.size() * sizeof(T));
      site_.stream->synchronize();  // the values may go
    } else {
      std::memcpy(data_ + at, values.data(), values.size() * sizeof(T));
    }
  }
  std::vector<T> read(std::size_t at, std::size_t count) const {
    std::vector<T> values(count);
    if (count == 0) return values;
    if (site_.on_device()) {
      site_.stream->to_host(values.data(), data_ + at, count * sizeof(T));
    } else {
      std::memcpy(values.data(), data_ + at, count * sizeof(T));
    }
    return values;
  }
  template <typename U>  // never equal to another type than T
  bool equals(const std::vector<U>& values, std::size_t at = 0) const {
    if constexpr (std::is_same_v<T, U>) {
      return same_bits(read(at, values.size()).data(), values.data(), values.size());
    }
    return false;
  }

 private:
  const Site& site_;
  std::size_t n_;
  core::Buffer plain_;
  SharedBuffer shared_;
  T* data_ = nullptr;
};

// Whether `values` are the sums over ranks of input_of(rank, ..., salt) from element `first` on:
// bit for bit, or as close as any order of summing comes.
template <typename T>
bool are_sums(const Site& site, const std::vector<T>& values, std::size_t first,
              std::uint64_t salt) {
  const int ranks = site.comm.world_size();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T exact = reference_reduce<T, T>(ranks, first + i, salt, ReduceOp::kSum, nullptr);
    if (same_bits(&values[i], &exact, 1)) continue;
    if (site.exact || !close_to_sum(values[i], ranks, first + i, salt)) return false;
  }
  return true;
}

// Whether all ranks have the same.
template <typename T>
bool ranks_agree(const Site& site, const std::vector<T>& values) {
  const std::string_view bytes(reinterpret_cast<const char*>(values.data()),
                               values.size() * sizeof(T));
  const auto all = site.comm.all_gather_small(core::hash64(bytes), "agree");
  return std::all_of(all.begin(), all.end(), [&](std::uint64_t h) { return h == all.front(); });
}

}  // namespace lockstep::comm::testing
