#include "ops/cuda/cublaslt/matmul_algorithms.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>

namespace lockstep::ops::cuda {
namespace {

using core::DType;

ProductKey up_projection() {
  ProductKey key;
  key.m = 65536;
  key.n = 3072;
  key.k = 768;
  key.stride_a = 768;
  key.stride_b = 768;
  key.stride_out = 3072;
  key.stride_aux = 3072;
  key.input = DType::kBF16;
  key.output = DType::kBF16;
  key.transpose_b = true;
  key.epilogue = Epilogue::kGeluBias;
  key.align_a = key.align_b = key.align_out = key.align_aux = key.align_vector = kMostAlignment;
  return key;
}

TEST(ProductKey, TellsProductsApartInItsText) {
  EXPECT_EQ(text_of(up_projection()),
            "bf16>bf16 m=65536 n=3072 k=768 a=768 b=768^T out=3072 aux=3072 gelu+bias");
  std::set<std::string> texts;
  const auto add = [&](auto change) {
    ProductKey key = up_projection();
    change(key);
    texts.insert(text_of(key));
  };
  add([](ProductKey&) {});
  add([](ProductKey& key) { key.m = 65535; });
  add([](ProductKey& key) { key.n = 3080; });
  add([](ProductKey& key) { key.k = 760; });
  add([](ProductKey& key) { key.stride_a = 2304; });
  add([](ProductKey& key) { key.stride_b = 2304; });
  add([](ProductKey& key) { key.stride_out = 4096; });
  add([](ProductKey& key) { key.stride_aux = 4096; });
  add([](ProductKey& key) { key.stride_aux = 0; });
  add([](ProductKey& key) { key.input = DType::kF16; });
  add([](ProductKey& key) { key.output = DType::kF32; });
  add([](ProductKey& key) { key.transpose_a = true; });
  add([](ProductKey& key) { key.transpose_b = false; });
  constexpr int kEpilogues = static_cast<int>(Epilogue::kBiasGradient) + 1;
  for (int e = 0; e < kEpilogues; ++e)
    add([e](ProductKey& key) { key.epilogue = static_cast<Epilogue>(e); });
  EXPECT_EQ(texts.size(), 13U + kEpilogues - 1U);  // the first one's epilogue comes twice
}

TEST(ProductKey, AlignmentIsAPowerOfTwoUpToTheMost) {
  EXPECT_EQ(alignment_of(nullptr), kMostAlignment);
  EXPECT_EQ(alignment_of(reinterpret_cast<void*>(std::uintptr_t{4096})), kMostAlignment);
  EXPECT_EQ(alignment_of(reinterpret_cast<void*>(std::uintptr_t{4096 + 32})), 32U);
  EXPECT_EQ(alignment_of(reinterpret_cast<void*>(std::uintptr_t{4096 + 6})), 2U);
  EXPECT_EQ(alignment_of(reinterpret_cast<void*>(std::uintptr_t{4097})), 1U);
}

TEST(MatmulAlgorithms, AnEntryIsFoundForItsGpuVersionAndProductAlone) {
  const std::string product = text_of(up_projection());
  const std::array<AlgorithmEntry, 3> table = {{
      {"NVIDIA H200", 130100, product, {true, {7, 1, 2, 3, 4, 5, 6, 0xffffffffffffffff}}},
      {"NVIDIA H200", 130200, product, {false, {}}},
      {"NVIDIA H100 80GB HBM3", 130100, product, {true, {8}}},
  }};
  const auto found = [&](std::string_view gpu, std::size_t version, const ProductKey& key) {
    return find_choice(table, gpu, version, key);
  };
  EXPECT_EQ(found("NVIDIA H200", 130100, up_projection()), &table[0].choice);
  EXPECT_EQ(found("NVIDIA H200", 130200, up_projection()), &table[1].choice);
  EXPECT_EQ(found("NVIDIA H100 80GB HBM3", 130100, up_projection()), &table[2].choice);
  EXPECT_EQ(found("NVIDIA H200 NVL", 130100, up_projection()), nullptr);
  EXPECT_EQ(found("NVIDIA H200", 130101, up_projection()), nullptr);
  ProductKey other = up_projection();
  other.m = 32768;
  EXPECT_EQ(found("NVIDIA H200", 130100, other), nullptr);
  EXPECT_EQ(find_choice({}, "NVIDIA H200", 130100, up_projection()), nullptr);
}

TEST(MatmulAlgorithms, EntriesHoldForOperandsOn16BytesOnly) {
  const std::string product = text_of(up_projection());
  const std::array<AlgorithmEntry, 1> table = {{{"gpu", 1, product, {true, {7}}}}};
  for (std::uint32_t ProductKey::*member :
       {&ProductKey::align_a, &ProductKey::align_b, &ProductKey::align_out, &ProductKey::align_aux,
        &ProductKey::align_vector}) {
    ProductKey key = up_projection();
    key.*member = 16;
    EXPECT_EQ(find_choice(table, "gpu", 1, key), &table[0].choice);
    key.*member = 8;
    EXPECT_EQ(find_choice(table, "gpu", 1, key), nullptr);
  }
}

TEST(MatmulAlgorithms, LinesAreWhatTheTableIsWrittenIn) {
  EXPECT_EQ(table_line("NVIDIA H200", 130100, up_projection(),
                       {true, {0x10, 1, 2, 3, 4, 5, 6, 0xffffffffffffffff}}),
            "{\"NVIDIA H200\", 130100, \"" + text_of(up_projection()) +
                "\", {true, {{0x10, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0xffffffffffffffff}}}},");
  EXPECT_EQ(table_line("NVIDIA H200", 130100, up_projection(), {false, {}}),
            "{\"NVIDIA H200\", 130100, \"" + text_of(up_projection()) + "\", {false, {}}},");
}

// Two entries for one product would leave one unread.
TEST(MatmulAlgorithms, TheTableHasOneEntryForAProduct) {
  std::set<std::string> seen;
  for (const AlgorithmEntry& entry : algorithm_table()) {
    const std::string key = std::string(entry.gpu) + "|" + std::to_string(entry.cublaslt) + "|" +
                            std::string(entry.product);
    EXPECT_TRUE(seen.insert(key).second) << key;
    EXPECT_EQ(entry.choice.one_call, entry.choice.algorithm != ProductChoice{}.algorithm) << key;
  }
}

}  // namespace
}  // namespace lockstep::ops::cuda
