#include <bit>
#include <cstring>

#include "core/cuda/stand_in/machine.h"
#include "core/error.h"

// ldmatrix and mma.sync on the stand-in, lane by lane as PTX lays fragments out.
namespace lockstep::core::cuda {

namespace {

// Lane l holds elements 2 (l % 4) and the next one of row l / 4 of each 8 x 8 matrix; the rows of
// matrix i are those that lanes 8 i to 8 i + 7 point to (PTX ISA, "ldmatrix").
void load_matrix_pairs(unsigned (&r)[4], const void* row, bool transposed) {
  const WarpSlots slots =
      exchange(transposed ? "load_matrices_transposed" : "load_matrices", &row, sizeof(row));
  const int lane = lane_index();
  for (int i = 0; i < 4; ++i) {
    std::uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const int along = lane % 4 * 2 + e;
      const int across = lane / 4;
      const void* address = nullptr;
      std::memcpy(&address, slots.of(8 * i + (transposed ? along : across)), sizeof(address));
      if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) {
        throw Error(ErrorKind::kInternal, "load_matrices: a row that does not lie on 16 bytes");
      }
      pair[e] = static_cast<const std::uint16_t*>(address)[transposed ? across : along];
    }
    std::memcpy(&r[i], pair, sizeof(pair));
  }
}

template <typename T>
float element_of(const unsigned* registers, int index) {
  const auto bits = static_cast<std::uint16_t>(registers[index / 2] >> (16 * (index % 2)));
  return static_cast<float>(std::bit_cast<T>(bits));
}

// d += a b with a [16, 16], b [16, 8]. With g = lane / 4, t = lane % 4, a lane holds of a the rows
// g and g + 8, columns 2 t, 2 t + 1 and those 8 further: a0 a1 (g, 2t), a2 a3 (g + 8, 2t), a4 a5
// (g, 2t + 8), a6 a7 (g + 8, 2t + 8); of b the rows 2 t, 2 t + 1 and 8 further of column g; of d
// the rows g and g + 8 of columns 2 t, 2 t + 1 (PTX ISA, "Matrix Fragments for mma.m16n8k16").
template <typename T>
void multiply_add_typed(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  struct Given {
    unsigned a[4];
    unsigned b[2];
  } given;
  static_assert(sizeof(Given) <= WarpSlots::kBytes);
  std::memcpy(given.a, a, sizeof(given.a));
  std::memcpy(given.b, b, sizeof(given.b));
  const WarpSlots slots = exchange("multiply_add", &given, sizeof(given));
  const auto of = [&](int lane) { return static_cast<const Given*>(slots.of(lane)); };
  const int lane = lane_index();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8);
    const int col = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int a_index = (row >= 8 ? 2 : 0) + (k >= 8 ? 4 : 0) + k % 2;
      const float left = element_of<T>(of(row % 8 * 4 + k % 8 / 2)->a, a_index);
      const float right = element_of<T>(of(col * 4 + k % 8 / 2)->b, (k >= 8 ? 2 : 0) + k % 2);
      d[i] += left * right;
    }
  }
}

}  // namespace

void load_matrices(unsigned (&r)[4], const void* row) {
  load_matrix_pairs(r, row, false);
}

void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  load_matrix_pairs(r, row, true);
}

void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], BFloat16) {
  multiply_add_typed<BFloat16>(d, a, b);
}

void multiply_add(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Float16) {
  multiply_add_typed<Float16>(d, a, b);
}

}  // namespace lockstep::core::cuda
