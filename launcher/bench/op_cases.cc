#include "launcher/bench/op_cases.h"

#include <fmt/format.h>

#include <iterator>

#include "core/error.h"

namespace lockstep::launcher {

namespace {

struct NamedModel {
  const char* name;
  models::Family family;
  std::int64_t layers;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t width;
  std::int64_t ffn_width;  // 0: derived
  std::int64_t context;
  std::int64_t vocab;
};

// GPT-2 with 50304 rows in its token table, as llm.c and nanoGPT have it; TinyLlama for grouped
// queries, rotation and gated activations.
constexpr NamedModel kModels[] = {
    {"tiny", models::Family::kGpt, 2, 2, 2, 64, 0, 32, 256},
    {"gpt2-124m", models::Family::kGpt, 12, 12, 12, 768, 0, 1024, 50304},
    {"gpt2-350m", models::Family::kGpt, 24, 16, 16, 1024, 0, 1024, 50304},
    {"gpt2-774m", models::Family::kGpt, 36, 20, 20, 1280, 0, 1024, 50304},
    {"gpt2-1558m", models::Family::kGpt, 48, 25, 25, 1600, 0, 1024, 50304},
    {"llama-1100m", models::Family::kLlama, 22, 32, 4, 2048, 5632, 2048, 32000},
};

}  // namespace

const std::vector<std::string>& model_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const NamedModel& model : kModels)
      all.emplace_back(model.name);
    return all;
  }();
  return names;
}

models::ModelConfig model_named(const std::string& name) {
  for (const NamedModel& named : kModels) {
    if (name != named.name) continue;
    models::ModelConfig model = models::family_defaults(named.family);
    model.layers = named.layers;
    model.heads = named.heads;
    model.kv_heads = named.kv_heads;
    model.width = named.width;
    model.ffn_width = named.ffn_width;
    model.context = named.context;
    model.vocab = named.vocab;
    models::derive_sizes(model);
    return model;
  }
  throw core::Error(core::ErrorKind::kConfig, fmt::format("no model is called '{}'; there are: {}",
                                                          name, fmt::join(model_names(), ", ")));
}

std::vector<OpCase> op_cases(const OpShapes& shapes) {
  std::vector<OpCase> cases;
  add_edge_cases(shapes, cases);
  add_product_cases(shapes, cases);
  add_row_cases(shapes, cases);
  add_update_cases(shapes, cases);
  return cases;
}

}  // namespace lockstep::launcher
