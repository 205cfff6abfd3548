#include "launcher/bench/coordinates_bench.h"

#include <chrono>
#include <cmath>
#include <map>

#include "comm/self/self_communicator.h"
#include "core/memory.h"
#include "core/random.h"
#include "launcher/bench/scratch_run.h"
#include "launcher/run_description.h"
#include "models/transformer.h"
#include "runtime/config/tensor_rules.h"
#include "runtime/trainer/trainer.h"

namespace lockstep::launcher {

namespace {

double root_mean_square(const core::ConstTensorView& values) {
  std::vector<float> row(static_cast<std::size_t>(values.cols()));
  double sum = 0.0;
  for (std::int64_t r = 0; r < values.rows(); ++r) {
    core::convert(values.dtype(), values.slice_rows(r, r + 1).raw(), core::DType::kF32, row.data(),
                  row.size());
    for (const float x : row)
      sum += static_cast<double>(x) * x;
  }
  return std::sqrt(sum / static_cast<double>(values.elements()));
}

// A forward pass of its own over the weights of a trainer.
class Probe {
 public:
  Probe(const runtime::Config& config, runtime::Trainer& trainer, core::MemoryTracker& memory)
      : config_(config),
        trainer_(trainer),
        model_(config.model, trainer.table(), config.precision.compute, config.batch.micro,
               config.run.seed, trainer.context(), memory) {
    const auto ids = static_cast<std::size_t>(config.batch.micro * config.model.context);
    std::vector<float> drawn(ids);
    core::fill_uniform(core::stream_key(5, "coordinates"), 0.0F,
                       static_cast<float>(config.model.vocab - 1), drawn.data(), ids);
    for (const float each : drawn)
      tokens_.push_back(static_cast<std::int32_t>(each));
  }

  // The last thing that each layer gives; of the head the logits.
  std::vector<double> measure() {
    std::map<int, double> by_layer;
    model_.observe([&](const models::ActivationView& activation) {
      by_layer[activation.layer] = root_mean_square(activation.values);
    });
    models::MicroBatch batch;
    batch.sequences = config_.batch.micro;
    batch.length = config_.model.context;
    batch.inputs = tokens_;
    batch.targets = tokens_;
    trainer_.state().finish_gather();
    model_.forward(batch, ops::LossOptions{}, trainer_.state());
    model_.observe(nullptr);
    std::vector<double> values;
    for (const auto& [layer, value] : by_layer)
      values.push_back(value);
    return values;
  }

 private:
  const runtime::Config& config_;
  runtime::Trainer& trainer_;
  models::Transformer model_;
  std::vector<std::int32_t> tokens_;
};

}  // namespace

Coordinates measure_coordinates(runtime::Config config, std::int64_t steps, core::Logger& log) {
  const auto communicator = comm::make_self_communicator(std::chrono::seconds(60));
  config.train.steps = steps;
  config.backend.device = runtime::DeviceChoice::kCpu;
  const ScratchRun scratch(config, steps, true, *communicator);
  core::MemoryTracker memory;
  runtime::Trainer trainer(config, threads_of_rank(config, 1), *communicator, memory, log);
  trainer.start("");
  Probe probe(config, trainer, memory);
  Coordinates found;
  found.width = config.model.width;
  for (models::GroupIndex group = 0; group + 1 < trainer.table().groups(); ++group)
    found.layers.push_back(trainer.table().group_name(group));
  found.layers.emplace_back("logits");
  found.by_step.push_back(probe.measure());
  for (std::int64_t step = 0; step < steps; ++step) {
    trainer.step();
    found.by_step.push_back(probe.measure());
  }
  return found;
}

std::vector<double> growth(const std::vector<Coordinates>& widths) {
  std::vector<double> slopes;
  const auto n = static_cast<double>(widths.size());
  for (std::size_t layer = 0; layer < widths.front().layers.size(); ++layer) {
    double x = 0.0;
    double y = 0.0;
    double xx = 0.0;
    double xy = 0.0;
    for (const Coordinates& each : widths) {
      const double log_width = std::log(static_cast<double>(each.width));
      const double log_size = std::log(each.by_step.back()[layer]);
      x += log_width / n;
      y += log_size / n;
      xx += log_width * log_width / n;
      xy += log_width * log_size / n;
    }
    slopes.push_back((xy - x * y) / (xx - x * x));
  }
  return slopes;
}

}  // namespace lockstep::launcher
