#include "launcher/bench/operands.h"

#include <algorithm>
#include <cstring>

#include "core/random.h"

namespace lockstep::launcher {

namespace {

constexpr const char* kRegion = "benchmark";
constexpr std::size_t kPoolElements = std::size_t{1} << 21;
// Odd, so that operands that follow one another do not start alike.
constexpr std::size_t kPoolStep = 64 * 1031;

}  // namespace

const core::Buffer& RandomPool::pool(core::DType dtype, Kind kind) {
  core::Buffer& buffer = pools_[{dtype, kind}];
  if (!buffer.empty()) return buffer;
  std::vector<float> drawn(kPoolElements);
  const core::Philox4x32Key key = core::stream_key(1, "benchmark");
  if (kind == Kind::kNormal) {
    core::fill_normal(key, 0.0F, 1.0F, drawn.data(), drawn.size());
  } else {
    core::fill_uniform(key, 0.0F, 1.0F, drawn.data(), drawn.size());
  }
  std::vector<std::byte> converted(kPoolElements * core::size_of(dtype));
  core::convert(core::DType::kF32, drawn.data(), dtype, converted.data(), kPoolElements);
  buffer = core::Buffer(memory_, kRegion, converted.size(), context_.device_ref());
  if (context_.device_ref().on_cpu()) {
    std::memcpy(buffer.data(), converted.data(), converted.size());
  } else {
    context_.stream().to_device(buffer.data(), converted.data(), converted.size());
    context_.stream().synchronize();
  }
  return buffer;
}

void RandomPool::fill(core::TensorView values, Kind kind) {
  const core::Buffer& source = pool(values.dtype(), kind);
  const auto* from = static_cast<const std::byte*>(source.data());
  auto* to = static_cast<std::byte*>(values.raw());
  next_ = (next_ + kPoolStep) % source.bytes();
  std::size_t left = values.bytes();
  std::size_t begin = next_;
  while (left > 0) {
    const std::size_t bytes = std::min(left, source.bytes() - begin);
    if (context_.device_ref().on_cpu()) {
      std::memcpy(to, from + begin, bytes);
    } else {
      context_.stream().on_device(to, from + begin, bytes);
    }
    to += bytes;
    left -= bytes;
    begin = 0;
  }
}

core::TensorView Operands::uncounted(core::DType dtype, core::Shape shape, RandomPool::Kind kind) {
  const auto bytes = static_cast<std::size_t>(shape.elements()) * core::size_of(dtype);
  core::Buffer buffer(memory_, kRegion, bytes, context_.device_ref());
  const core::TensorView view = buffer.view(dtype, shape);
  buffers_.push_back(std::move(buffer));
  pool_.fill(view, kind);
  return view;
}

core::TensorView Operands::read(core::DType dtype, core::Shape shape) {
  const core::TensorView view = uncounted(dtype, shape);
  count(view);
  return view;
}

core::TensorView Operands::write(core::DType dtype, core::Shape shape) {
  return read(dtype, shape);
}

core::TensorView Operands::update(core::DType dtype, core::Shape shape) {
  const core::TensorView view = read(dtype, shape);
  count(view);
  return view;
}

std::span<const std::int32_t> Operands::tokens(std::int64_t count, std::int64_t vocab) {
  std::vector<float> drawn(static_cast<std::size_t>(count));
  core::fill_uniform(core::stream_key(2, "benchmark", tokens_.size()), 0.0F,
                     static_cast<float>(vocab), drawn.data(), drawn.size());
  std::vector<std::int32_t> ids;
  for (const float value : drawn)
    ids.push_back(static_cast<std::int32_t>(std::min(static_cast<std::int64_t>(value), vocab - 1)));
  tokens_.push_back(std::move(ids));
  bytes_ += static_cast<double>(count) * sizeof(std::int32_t);
  return tokens_.back();
}

}  // namespace lockstep::launcher
