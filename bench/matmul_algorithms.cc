#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "core/cuda_module.h"
#include "core/error.h"
#include "core/random.h"
#include "ops/op_bodies.h"

// Finds by timing how each product of some models is best done on the first GPU, and prints it as
// lines for ops/cuda/cublaslt/matmul_algorithm_table.cc, with the times of the alternatives behind
// them. Lines hold for this GPU and this version of cuBLASLt.
//
//   matmul_algorithms [--dtype bf16|fp16|fp32] [--tokens N --width C --vocab V]
namespace lockstep {
namespace {

using core::DType;
using core::TensorView;
using ops::ActivationFunction;
using ops::OpContext;
using ops::Transpose;

// A GPT with four times the width in its MLP: `tokens` of a micro-batch.
struct ModelSizes {
  std::int64_t tokens, width, vocab;
};

// GPT-2 124M and 350M; the vocabulary as it is and rounded up to 64.
constexpr ModelSizes kDefaults[] = {{65536, 768, 50304},  {65536, 768, 50257},
                                    {16384, 768, 50304},  {16384, 768, 50257},
                                    {32768, 1024, 50304}, {32768, 1024, 50257}};

struct Options {
  DType dtype = DType::kBF16;
  std::vector<ModelSizes> models{std::begin(kDefaults), std::end(kDefaults)};
};

[[noreturn]] void fail(const std::string& what) {
  throw core::Error(core::ErrorKind::kConfig, what);
}

DType dtype_named(std::string_view name) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    if (core::name_of(dtype) == name) return dtype;
  fail(fmt::format("--dtype: expected bf16, fp16 or fp32, found {}", name));
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  ModelSizes sizes{};
  if (arguments.size() % 2 != 0) fail("expected pairs of a key and its value");
  for (std::size_t i = 0; i < arguments.size(); i += 2) {
    const std::string& key = arguments[i];
    const std::string& value = arguments[i + 1];
    if (key == "--dtype") {
      options.dtype = dtype_named(value);
      continue;
    }
    std::int64_t* const number = key == "--tokens"  ? &sizes.tokens
                                 : key == "--width" ? &sizes.width
                                 : key == "--vocab" ? &sizes.vocab
                                                    : nullptr;
    if (number == nullptr)
      fail(fmt::format("unknown key {}; --dtype, --tokens, --width, --vocab are known", key));
    const char* const end = value.data() + value.size();
    const auto read = std::from_chars(value.data(), end, *number);
    if (read.ec != std::errc{} || read.ptr != end || *number <= 0)
      fail(fmt::format("{}: expected a positive number, found {}", key, value));
  }
  if (sizes.tokens == 0 && sizes.width == 0 && sizes.vocab == 0) return options;
  if (sizes.tokens == 0 || sizes.width == 0 || sizes.vocab == 0)
    fail("--tokens, --width and --vocab belong together");
  options.models = {sizes};
  return options;
}

// Operands on the device, with random numbers in them: zeros would need less power and be faster.
class Operands {
 public:
  explicit Operands(OpContext& context) : context_(context), pattern_(kPatternElements * 4) {}

  TensorView matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride = 0) {
    if (stride == 0) stride = cols;
    const auto elements = static_cast<std::size_t>(rows * stride);
    const std::size_t bytes = elements * core::size_of(dtype);
    buffers_.emplace_back(memory_, "operands", bytes, context_.device_ref());
    fill(buffers_.back().data(), dtype, bytes);
    return {buffers_.back().data(), dtype, {rows, cols}, stride, context_.device()};
  }
  TensorView vector(DType dtype, std::int64_t elements) {
    return matrix(dtype, 1, elements).reshaped({elements});
  }
  void fill(void* memory, DType dtype, std::size_t bytes) {
    std::vector<float> drawn(kPatternElements);
    core::fill_normal(core::stream_key(++seed_, "operands"), 0.0F, 0.1F, drawn.data(),
                      drawn.size());
    core::convert(DType::kF32, drawn.data(), dtype, pattern_.data(), drawn.size());
    auto* const to = static_cast<std::byte*>(memory);
    std::size_t filled = std::min(bytes, kPatternElements * core::size_of(dtype));
    context_.stream().to_device(to, pattern_.data(), filled);
    context_.stream().synchronize();  // before the pattern is drawn anew
    while (filled < bytes) {
      const std::size_t more = std::min(filled, bytes - filled);
      context_.stream().on_device(to + filled, to, more);
      filled += more;
    }
  }
  void clear() {
    context_.stream().synchronize();
    buffers_.clear();
  }

 private:
  static constexpr std::size_t kPatternElements = std::size_t{1} << 20;

  OpContext& context_;
  core::MemoryTracker memory_;
  std::vector<core::Buffer> buffers_;
  std::vector<std::byte> pattern_;
  std::uint64_t seed_ = 0;
};

// A linear layer, forward and both gradients.
void layer(OpContext& context, DType dtype, std::int64_t tokens, std::int64_t in,
           std::int64_t out) {
  Operands operands(context);
  const TensorView x = operands.matrix(dtype, tokens, in);
  const TensorView weight = operands.matrix(dtype, out, in);
  const TensorView vector = operands.vector(dtype, out);
  const TensorView y = operands.matrix(dtype, tokens, out);
  matmul(context, x, Transpose::kNo, weight, Transpose::kYes, y, vector);
  matmul(context, y, Transpose::kNo, weight, Transpose::kNo, x);
  matmul_weight_gradient(context, y, x, weight, vector);
  operands.clear();
}

void mlp(OpContext& context, DType dtype, const ModelSizes& s) {
  constexpr auto kF = ActivationFunction::kGeluTanh;
  const std::int64_t wide = 4 * s.width;
  Operands operands(context);
  const TensorView x = operands.matrix(dtype, s.tokens, s.width);
  const TensorView up = operands.matrix(dtype, wide, s.width);
  const TensorView down = operands.matrix(dtype, s.width, wide);
  const TensorView wide_vector = operands.vector(dtype, wide);
  const TensorView vector = operands.vector(dtype, s.width);
  const TensorView pre = operands.matrix(dtype, s.tokens, wide);
  const TensorView y = operands.matrix(dtype, s.tokens, wide);
  matmul_activation_forward(context, kF, x, up, wide_vector, pre, y);
  matmul(context, y, Transpose::kNo, down, Transpose::kYes, x, vector);
  matmul_weight_gradient(context, x, y, down, vector);
  matmul_activation_backward(context, kF, x, down, pre, y, wide_vector);
  matmul_weight_gradient(context, y, x, up, {});
  matmul(context, y, Transpose::kNo, up, Transpose::kNo, x);
  operands.clear();
}

// Logits in fp32; their gradient takes their place, a 16-bit row in the first half of its row.
void head(OpContext& context, DType dtype, const ModelSizes& s) {
  const std::int64_t stride = (s.vocab + 63) / 64 * 64;
  Operands operands(context);
  const TensorView x = operands.matrix(dtype, s.tokens, s.width);
  const TensorView table = operands.matrix(dtype, s.vocab, s.width);
  const TensorView dtable = operands.matrix(DType::kF32, s.vocab, s.width);
  const TensorView logits = operands.matrix(DType::kF32, s.tokens, s.vocab, stride);
  matmul(context, x, Transpose::kNo, table, Transpose::kYes, logits);
  const auto ratio = static_cast<std::int64_t>(sizeof(float) / core::size_of(dtype));
  const TensorView dlogits(logits.raw(), dtype, logits.shape(), stride * ratio, logits.device());
  operands.fill(logits.raw(), dtype, static_cast<std::size_t>(s.tokens * stride) * sizeof(float));
  matmul_weight_gradient(context, dlogits, x, dtable, {});
  matmul(context, dlogits, Transpose::kNo, table, Transpose::kNo, x);
  operands.clear();
}

void search(const Options& options) {
  const core::CudaModule module = core::load_cuda_module();
  const core::DeviceRef device = core::open_device(module.runtime(), 0);
  core::MemoryTracker memory;
  OpContext context(1, memory, device, ops::cuda_op_bodies(module), ops::Determinism::kNone);
  for (const ModelSizes& s : options.models) {
    fmt::print(stderr, "{} tokens, width {}, vocabulary {}\n", s.tokens, s.width, s.vocab);
    layer(context, options.dtype, s.tokens, s.width, 3 * s.width);
    layer(context, options.dtype, s.tokens, s.width, s.width);
    mlp(context, options.dtype, s);
    head(context, options.dtype, s);
  }
  fmt::print("{}", context.bodies().describe_choices(context.libraries()));
}

int run(int argc, char** argv) {
  try {
    search(parse({argv + 1, argv + argc}));
  } catch (const std::exception& error) {
    fmt::print(stderr, "matmul_algorithms: {}\n", error.what());
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  return lockstep::run(argc, argv);
}
