#include "runtime/interchange/import_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "runtime/config/rules.h"
#include "runtime/config/schema.h"

namespace lockstep::runtime {

namespace {

constexpr std::int64_t kLongestContext = 1024;  // proposed where positions need no table

void require_one_dropout(const ForeignModel& foreign, const std::filesystem::path& directory) {
  if (foreign.dropouts_agree()) return;
  std::vector<std::string> fields;
  for (const auto& [field, probability] : foreign.dropouts)
    fields.push_back(fmt::format("{} {}", field, probability));
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format("{}: model.dropout holds after the embeddings, on attention probabilities and on "
                  "both residual branches alike, but found {}; make them equal in config.json",
                  (directory / "config.json").string(), fmt::join(fields, ", ")));
}

// "  norm_eps: 1e-6   # rms_norm_eps"
std::string row(const Key& key, const Config& config, const std::string& indent,
                const std::string& comment) {
  const std::string left =
      fmt::format("{}{}: {}", indent, key.name(), format_value(key.get(config)));
  return comment.empty() ? left + "\n" : fmt::format("{:<36} # {}\n", left, comment);
}

// The keys of one section of `model:` that a file must say.
class ModelSection {
 public:
  ModelSection(const ForeignModel& foreign, const Config& config)
      : foreign_(foreign), config_(config) {
    defaults_.model = models::family_defaults(foreign.model.family);
  }

  std::string text() const {
    std::string text = "model:\n";
    std::string open = "model";
    for (const Key& key : schema_keys()) {
      if (!key.path.starts_with("model.") || !is_said(key)) continue;
      const bool nested = key.section() != "model";
      if (nested && open != key.section())
        text += fmt::format("  {}:\n", key.section().substr(std::string("model.").size()));
      open = key.section();
      text += row(key, config_, nested ? "    " : "  ", origin(key));
    }
    return text;
  }

 private:
  bool is_said(const Key& key) const {
    if (key.path == "model.family" || key.path == "model.init_from") return true;
    if (!has_effect(key.path, config_)) return false;
    if (key.default_kind == DefaultKind::kRequired) return true;
    // What follows from other keys (kv_heads) is 0 in the family's defaults and so is said.
    return format_value(key.get(config_)) != format_value(key.get(defaults_));
  }

  std::string origin(const Key& key) const {
    if (key.path == "model.family") return foreign_.model_type;
    const std::string name = key.path.substr(std::string("model.").size());
    const auto found = foreign_.origin.find(name.substr(0, name.find('.')));
    return found == foreign_.origin.end() ? "" : found->second;
  }

  const ForeignModel& foreign_;
  const Config& config_;
  Config defaults_;
};

}  // namespace

std::string import_config(const ForeignModel& foreign, const std::filesystem::path& directory) {
  require_one_dropout(foreign, directory);
  Config config;
  config.model = foreign.model;
  config.init_from = directory.string();
  const bool table = foreign.model.positions == models::Positions::kLearned;
  if (!table) config.model.context = std::min(config.model.context, kLongestContext);
  std::string text = fmt::format(
      "# Trains on from the {} model in {}.\n"
      "# Written by `lockstep import`; the comments name the fields of its config.json.\n",
      foreign.model_type, directory.string());
  for (const std::string& note : foreign.notes)
    text += "# " + note + ".\n";
  text += ModelSection(foreign, config).text();
  if (!table && config.model.context < foreign.model.context)
    text += fmt::format("  # context: up to {} (max_position_embeddings)\n", foreign.model.context);
  text +=
      "data:\n"
      "  train: data/mine                   # tokens of this model's tokenizer: say where they "
      "are\n"
      "batch: {global: 8, micro: 1}         # sequences\n"
      "train: {steps: 1000}\n"
      "optimizer: {learning_rate: 2e-5, weight_decay: 0.0}\n"
      "schedule: {name: cosine, warmup_steps: 50}\n";
  return text;
}

}  // namespace lockstep::runtime
