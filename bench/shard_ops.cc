// Times on a GPU what a step does to every parameter, without a model: hashing the bf16 parameters
// slice by slice, and one AdamW update of rank 0's shard. One JSON line for each of them and for a
// plain copy, the ceiling. `seconds` is the median of 20 calls after 3.
//
//   shard_ops LAYERS WIDTH [RANKS]      GPT-2's sizes are 12 768, 24 1024, 36 1280, 48 1600
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iostream>

#include "core/cuda_module.h"
#include "core/device_runtime.h"
#include "core/error.h"
#include "ops/hash.h"
#include "ops/op_bodies.h"
#include "ops/optimizer_update.h"
#include "runtime/sharding/bucket_layout.h"

namespace {

namespace core = lockstep::core;
namespace models = lockstep::models;
namespace ops = lockstep::ops;
using lockstep::runtime::BucketLayout;
using lockstep::runtime::Segment;

models::ModelConfig gpt2(std::int64_t layers, std::int64_t width) {
  models::ModelConfig config = models::family_defaults(models::Family::kGpt);
  config.layers = layers;
  config.width = width;
  config.heads = width / 64;
  config.context = 1024;
  config.vocab = 50257;
  models::derive_sizes(config);
  return config;
}

class Bench {
 public:
  Bench(const models::ParameterTable& table, const BucketLayout& layout, core::DeviceRef device,
        const ops::OpBodies& bodies)
      : table_(table), layout_(layout), context_(1, memory_, device, bodies) {}

  void copy() {
    const auto bytes = static_cast<std::size_t>(layout_.flat_elements()) * 2;
    const core::Buffer from(memory_, "bench", bytes, context_.device_ref());
    const core::Buffer to(memory_, "bench", bytes, context_.device_ref());
    report("copy", 1, bytes * 2,
           [&] { context_.stream().on_device(to.data(), from.data(), bytes); });
  }

  void hash() {
    const core::Buffer parameters = zeros(2);
    std::vector<std::vector<ops::ByteRange>> messages;
    std::size_t bytes = 0;
    for (int b = 0; b < layout_.size(); ++b)
      for (int owner = 0; owner < layout_.world_size(); ++owner) {
        messages.emplace_back();
        for (const Segment& segment : layout_.owned_segments(b, owner)) {
          const std::int64_t begin = layout_[b].flat_offset + segment.bucket_begin;
          messages.back().push_back({begin * 2, segment.count * 2});
          bytes += static_cast<std::size_t>(segment.count) * 2;
        }
      }
    const ops::HashPlan plan(context_, memory_, messages);
    const core::Buffer hashes(memory_, "bench", messages.size() * 8, context_.device_ref());
    const core::TensorView base =
        parameters.view(core::DType::kBF16, core::Shape{layout_.flat_elements()});
    report("hash", messages.size(), bytes, [&] {
      ops::hash_messages(context_, plan, base, static_cast<std::uint64_t*>(hashes.data()));
    });
  }

  void update() {
    const core::Buffer gradient = zeros(4);
    const core::Buffer master = zeros(4);
    const core::Buffer first = zeros(4);
    const core::Buffer second = zeros(4);
    const core::Buffer parameters = zeros(2);
    std::vector<ops::UpdateRun> runs;
    std::size_t elements = 0;
    for (int b = 0; b < layout_.size(); ++b)
      for (const Segment& segment : layout_.owned_segments(b, 0)) {
        const std::int64_t begin = layout_[b].flat_offset + segment.bucket_begin;
        const auto piece = [&](const core::Buffer& buffer, core::DType dtype) {
          return buffer.view(dtype, core::Shape{segment.count},
                             static_cast<std::size_t>(begin) * core::size_of(dtype));
        };
        runs.push_back({piece(gradient, core::DType::kF32), piece(master, core::DType::kF32),
                        piece(first, core::DType::kF32), piece(second, core::DType::kF32),
                        piece(parameters, core::DType::kBF16), table_[segment.parameter].decays,
                        0});
        elements += static_cast<std::size_t>(segment.count);
      }
    const std::size_t count = runs.size();
    const ops::UpdatePlan plan(context_, memory_, std::move(runs));
    const ops::UpdateRule rule{.learning_rate = 1e-3, .weight_decay = 0.1};
    report("update", count, elements * 30,  // reads 4 fp32, writes 3 and a bf16
           [&] { ops::optimizer_update_runs(context_, rule, plan, 1.0F, 0.0F); });
  }

 private:
  static constexpr int kWarmUp = 3;
  static constexpr int kCalls = 20;

  core::Buffer zeros(std::int64_t bytes_per_element) {
    return {memory_, "bench", static_cast<std::size_t>(layout_.flat_elements() * bytes_per_element),
            context_.device_ref()};
  }

  void report(const char* op, std::size_t pieces, std::size_t bytes,
              const std::function<void()>& call) {
    std::vector<double> seconds;
    core::DeviceEvent begin(context_.device_ref());
    core::DeviceEvent end(context_.device_ref());
    for (int i = 0; i < kWarmUp + kCalls; ++i) {
      begin.record(context_.stream());
      call();
      end.record(context_.stream());
      context_.stream().synchronize();
      if (i >= kWarmUp) seconds.push_back(end.seconds_since(begin));
    }
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    std::cout << fmt::format(
        "{{\"op\": \"{}\", \"pieces\": {}, \"bytes\": {}, \"seconds\": {:.3e}, \"least\": {:.3e}, "
        "\"gigabytes_per_second\": {:.1f}}}\n",
        op, pieces, bytes, median, seconds.front(), static_cast<double>(bytes) / median * 1e-9);
  }

  const models::ParameterTable& table_;
  const BucketLayout& layout_;
  core::MemoryTracker memory_;
  ops::OpContext context_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t layers = argc > 1 ? std::atoll(argv[1]) : 0;
  const std::int64_t width = argc > 2 ? std::atoll(argv[2]) : 0;
  const int ranks = argc > 3 ? std::atoi(argv[3]) : 1;
  if (argc > 4 || layers < 1 || width < 64 || width % 64 != 0 || ranks < 1) {
    std::cerr << "usage: shard_ops LAYERS WIDTH [RANKS]; WIDTH is a multiple of 64\n";
    return 2;
  }
  try {
    const core::CudaModule module = core::load_cuda_module();
    const core::DeviceRef device = core::open_device(module.runtime(), 0);
    const models::ParameterTable table(gpt2(layers, width));
    const BucketLayout layout(table, true, ranks, std::int64_t{1} << 40, 2);
    Bench bench(table, layout, device, ops::cuda_op_bodies(module));
    bench.copy();
    bench.hash();
    bench.update();
  } catch (const std::exception& e) {
    std::cerr << "shard_ops: " << e.what() << "\n";
    return 1;
  }
  return 0;
}
