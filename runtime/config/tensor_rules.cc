#include "runtime/config/tensor_rules.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <cstdint>

#include "runtime/config/nearest.h"

namespace lockstep::runtime {
namespace {

bool matches(const OptimizerGroup& group, const models::ParameterSpec& spec) {
  return fnmatch(group.match.c_str(), spec.name.c_str(), 0) == 0;
}

int group_of(const std::vector<OptimizerGroup>& groups, const models::ParameterSpec& spec) {
  const auto found = std::find_if(groups.begin(), groups.end(), [&](const OptimizerGroup& group) {
    return matches(group, spec);
  });
  return found == groups.end() ? -1 : static_cast<int>(found - groups.begin());
}

// Tensors and elements of a group, of which some may be frozen.
struct Count {
  std::int64_t tensors = 0;
  std::int64_t elements = 0;
};

Count count_of(const models::ParameterTable& table, const std::vector<TensorRule>& rules,
               int group) {
  Count count;
  for (models::ParameterId id = 0; id < table.size(); ++id) {
    if (rules[static_cast<std::size_t>(id)].group != group) continue;
    count.tensors += 1;
    count.elements += table[id].elements();
  }
  return count;
}

std::string with_commas(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t i = text.size(); i > 3; i -= 3)
    text.insert(i - 3, ",");
  return text;
}

std::string counts_text(const Count& count) {
  return fmt::format("{} tensor{}, {} elements", count.tensors, count.tensors == 1 ? "" : "s",
                     with_commas(count.elements));
}

std::string what_it_does(const OptimizerGroup& group) {
  if (group.freeze) return "frozen";
  std::string text = fmt::format("learning rate x {}", group.learning_rate_scale);
  if (group.weight_decay >= 0.0) text += fmt::format(", weight decay {}", group.weight_decay);
  return text;
}

// mup (models/parametrization.h). Muon's updates have the size that it asks for at any width.
void scale_for_width(const OptimizerConfig& optimizer, const models::ParameterSpec& spec,
                     TensorRule& rule) {
  if (optimizer.name == ops::OptimizerKind::kMuon) return;
  rule.learning_rate_scale /= spec.width_multiplier;
  const bool decoupled =
      optimizer.name == ops::OptimizerKind::kAdamW || optimizer.name == ops::OptimizerKind::kLion;
  if (decoupled) rule.weight_decay *= spec.width_multiplier;
}

}  // namespace

std::vector<TensorRule> tensor_rules(const OptimizerConfig& optimizer,
                                     const models::ParameterTable& table) {
  std::vector<TensorRule> rules;
  for (const models::ParameterSpec& spec : table.specs()) {
    TensorRule rule;
    rule.group = group_of(optimizer.groups, spec);
    rule.weight_decay = spec.decays ? optimizer.weight_decay : 0.0;
    if (rule.group >= 0) {
      const OptimizerGroup& group = optimizer.groups[static_cast<std::size_t>(rule.group)];
      rule.learning_rate_scale = group.learning_rate_scale;
      if (group.weight_decay >= 0.0) rule.weight_decay = group.weight_decay;
      rule.frozen = group.freeze;
    }
    scale_for_width(optimizer, spec, rule);
    rules.push_back(rule);
  }
  return rules;
}

models::ParameterTable parameter_table(const Config& config) {
  models::ParameterTable table(config.model);
  const std::vector<TensorRule> rules = tensor_rules(config.optimizer, table);
  for (models::ParameterId id = 0; id < table.size(); ++id) {
    if (rules[static_cast<std::size_t>(id)].frozen) table.freeze(id);
  }
  return table;
}

std::vector<std::string> describe_groups(const Config& config) {
  const std::vector<OptimizerGroup>& groups = config.optimizer.groups;
  if (groups.empty()) return {};
  const models::ParameterTable table(config.model);
  const std::vector<TensorRule> rules = tensor_rules(config.optimizer, table);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    lines.push_back(fmt::format("{}: {}, {}", groups[i].match, what_it_does(groups[i]),
                                counts_text(count_of(table, rules, static_cast<int>(i)))));
  }
  lines.push_back("in no group: " + counts_text(count_of(table, rules, -1)));
  return lines;
}

std::vector<std::string> problems_of_groups(const OptimizerConfig& optimizer,
                                            const models::ParameterTable& table) {
  std::vector<std::string> problems;
  const std::vector<TensorRule> rules = tensor_rules(optimizer, table);
  std::vector<std::string> names;
  for (const models::ParameterSpec& spec : table.specs())
    names.push_back(spec.name);
  for (std::size_t i = 0; i < optimizer.groups.size(); ++i) {
    const OptimizerGroup& group = optimizer.groups[i];
    if (count_of(table, rules, static_cast<int>(i)).tensors > 0) continue;
    const bool shadowed =
        std::any_of(table.specs().begin(), table.specs().end(),
                    [&](const models::ParameterSpec& spec) { return matches(group, spec); });
    const std::string nearest = nearest_word(group.match, names);
    problems.push_back(
        shadowed
            ? fmt::format("item {} would have no effect: every tensor that '{}' matches is in an "
                          "earlier item; put it first, or take it out",
                          i, group.match)
            : fmt::format("'{}' matches no tensor of this model; names are like {}", group.match,
                          nearest.empty() ? names.front() + ", " + names.back() : nearest));
  }
  const bool trains =
      std::any_of(rules.begin(), rules.end(), [](const TensorRule& rule) { return !rule.frozen; });
  if (!trains) problems.emplace_back("every tensor is frozen, so nothing would be trained");
  return problems;
}

}  // namespace lockstep::runtime
