#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "comm/self/self_communicator.h"
#include "core/log.h"
#include "core/memory.h"
#include "models/parameter_table.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/config/load_config.h"
#include "runtime/plan/run_plan.h"
#include "runtime/sharding/model_state.h"
#include "runtime/trainer/trainer.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::testing {

// A checkpoint of a tiny model of bytes with its initial weights, as a run in DIR/run would have
// written it. The initial deviation is large, so that some tokens are much likelier than others.
struct TinyCheckpoint {
  static constexpr const char* kBytes = R"({"type":"bytes"})";

  // overrides: "model.vocab=64"; tokenizer: JSON text, or empty; step: in the checkpoint's name.
  explicit TinyCheckpoint(std::vector<std::string> overrides = {},
                          const std::string& tokenizer = kBytes, std::int64_t step = 1) {
    save(std::move(overrides), tokenizer, step);
  }

  void save(std::vector<std::string> overrides, const std::string& tokenizer, std::int64_t step) {
    overrides.push_back("run.output=" + output());
    const runtime::Config config = runtime::parse_config(
        "model: {family: gpt, layers: 2, heads: 2, width: 32, context: 16, vocab: 256, "
        "init_std: 0.3}\n"
        "data: {train: none.bin}\n"
        "batch: {global: 1, micro: 1}\n"
        "train: {steps: 1}\n"
        "optimizer: {learning_rate: 1e-3}\n",
        "tiny.yaml", overrides);
    std::filesystem::create_directories(output() + "/checkpoints");
    const models::ParameterTable table(config.model);
    const runtime::BucketLayout layout = runtime::bucket_layout(config, table, 1);
    const auto communicator = comm::make_self_communicator(std::chrono::seconds(10));
    core::MemoryTracker memory;
    ops::OpContext context(1, memory);
    core::Logger log(0, 1, core::LogLevel::kError);
    runtime::ModelState model(table, layout, config.precision.compute, config.parallel.zero_stage,
                              2, false, *communicator, context, memory);
    std::vector<float> values;
    for (models::ParameterId id = 0; id < table.size(); ++id) {
      values.resize(static_cast<std::size_t>(table[id].elements()));
      models::initialize(table[id], config.run.seed, values.data());
      model.set_parameter(id, values.data());
    }
    runtime::CheckpointState state;
    state.step = step;
    state.world_size = 1;
    state.seed = config.run.seed;
    state.tokenizer = tokenizer;
    runtime::save_checkpoint(config, table, model, state, *communicator, memory, log);
  }

  std::string output() const { return (directory / "run").string(); }
  std::string path(std::int64_t step = 1) const {
    return output() + "/checkpoints/" + runtime::checkpoint_name(step);
  }

  TemporaryDirectory directory;
};

}  // namespace lockstep::testing
