// The safetensors reader: the header, then all values of all tensors.
#include <algorithm>
#include <array>

#include "runtime/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace lockstep;

void read_values(const runtime::SafetensorsFile& file, const runtime::StoredTensor& tensor) {
  std::array<float, 64> values{};
  for (std::uint64_t first = 0; first < tensor.elements; first += values.size()) {
    const auto count = std::min<std::uint64_t>(values.size(), tensor.elements - first);
    file.read(tensor, first, std::span<float>(values.data(), static_cast<std::size_t>(count)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile memory;
  memory.fill(fuzz::text_of(data, size));
  fuzz::may_refuse(core::ErrorKind::kData, [&] {
    const runtime::SafetensorsFile file(memory.path());
    for (const runtime::StoredTensor& tensor : file.tensors()) {
      fuzz::require(file.find(tensor.name) == &tensor, "a tensor that is not found by its name");
      fuzz::require(tensor.bytes <= size, "a tensor larger than its file");
      fuzz::may_refuse(core::ErrorKind::kData, [&] { read_values(file, tensor); });
    }
  });
  return 0;
}
