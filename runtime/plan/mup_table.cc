#include "runtime/plan/mup_table.h"

#include <fmt/format.h>

#include "models/parametrization.h"
#include "runtime/config/tensor_rules.h"

namespace lockstep::runtime {

namespace {

bool is_muons(const Config& config, const models::ParameterTable& table,
              const models::ParameterSpec& spec) {
  return config.optimizer.name == ops::OptimizerKind::kMuon &&
         spec.role == models::ParameterRole::kLinearWeight && spec.group > 0 &&
         spec.group < table.groups() - 1;
}

}  // namespace

std::vector<MupRow> mup_rows(const Config& config) {
  if (config.model.parametrization == models::Parametrization::kStandard) return {};
  const models::ParameterTable table(config.model);
  const std::vector<TensorRule> rules = tensor_rules(config.optimizer, table);
  const OptimizerConfig& optimizer = config.optimizer;
  std::vector<MupRow> rows;
  for (models::ParameterId id = 0; id < table.size(); ++id) {
    const models::ParameterSpec& spec = table[id];
    if (spec.group > 1 && spec.group < table.groups() - 1) continue;
    const TensorRule& rule = rules[static_cast<std::size_t>(id)];
    const bool rest = optimizer.name == ops::OptimizerKind::kMuon && !is_muons(config, table, spec);
    MupRow row;
    row.tensors = spec.group == 1 ? "block.*" + spec.name.substr(7) : spec.name;  // "block.0"
    row.width_multiplier = spec.width_multiplier;
    const bool random = spec.init.kind == models::InitRule::Kind::kNormal ||
                        spec.init.kind == models::InitRule::Kind::kUniform;
    row.initial_deviation = random ? spec.init.scale : 0.0;
    row.learning_rate = rule.learning_rate_scale *
                        (rest ? optimizer.muon.adamw_learning_rate : optimizer.learning_rate);
    row.weight_decay = rule.weight_decay;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string mup_table(const Config& config) {
  std::string text =
      fmt::format("{:<36}{:>8}{:>14}{:>14}{:>14}\n", "mup", "m", "deviation", "rate", "decay");
  for (const MupRow& row : mup_rows(config)) {
    text += fmt::format("{:<36}{:>8.4g}{:>14.4g}{:>14.4g}{:>14.4g}\n", row.tensors,
                        row.width_multiplier, row.initial_deviation, row.learning_rate,
                        row.weight_decay);
  }
  return text + fmt::format("scores * {:.6g}, logits * {:.6g}\n",
                            models::attention_scale(config.model),
                            1.0 / config.model.width_multiplier());
}

}  // namespace lockstep::runtime
