#include "runtime/config/schema.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/config/nearest.h"
#include "runtime/config/schema_builder.h"

namespace lockstep::runtime {
namespace {

// Names that other programs use for a key here.
constexpr std::array<std::pair<std::string_view, std::string_view>, 22> kForeignNames = {{
    {"lr", "optimizer.learning_rate"},
    {"max_lr", "optimizer.learning_rate"},
    {"min_lr", "schedule.min_learning_rate"},
    {"warmup", "schedule.warmup_steps"},
    {"warmup_iters", "schedule.warmup_steps"},
    {"n_layer", "model.layers"},
    {"num_layers", "model.layers"},
    {"n_head", "model.heads"},
    {"num_heads", "model.heads"},
    {"n_embd", "model.width"},
    {"hidden_size", "model.width"},
    {"block_size", "model.context"},
    {"seq_len", "model.context"},
    {"vocab_size", "model.vocab"},
    {"max_steps", "train.steps"},
    {"max_iters", "train.steps"},
    {"batch_size", "batch.global"},
    {"micro_batch_size", "batch.micro"},
    {"max_norm", "clip.threshold"},
    {"grad_clip", "clip.threshold"},
    {"dtype", "precision.compute"},
    {"stage", "parallel.zero_stage"},
}};

constexpr std::array<std::string_view, 9> kFingerprintSections = {
    "model", "data", "batch", "loss", "optimizer", "schedule", "clip", "precision", "ema"};

bool belongs_to_fingerprint(const Key& key) {
  if (key.path == "run.seed") return true;
  if (key.kind == ValueKind::kPath || key.kind == ValueKind::kPaths) return false;
  const auto dot = std::find(key.path.begin(), key.path.end(), '.');
  const std::string top(key.path.begin(), dot);
  return std::find(kFingerprintSections.begin(), kFingerprintSections.end(), top) !=
         kFingerprintSections.end();
}

std::vector<Key> build_schema() {
  std::vector<Key> keys;
  SchemaBuilder schema(keys);
  add_run_keys(schema);
  add_model_keys(schema);
  add_training_keys(schema);
  add_execution_keys(schema);
  for (Key& key : keys)
    key.in_fingerprint = belongs_to_fingerprint(key);
  return keys;
}

std::string describe_range(const Range& range) {
  const bool has_low = range.low != -std::numeric_limits<double>::infinity();
  const bool has_high = range.high != std::numeric_limits<double>::infinity();
  if (has_low && has_high && !range.low_open && !range.high_open) {
    return " from " + format_number(range.low) + " to " + format_number(range.high);
  }
  std::string text;
  if (has_low) text += (range.low_open ? " > " : " >= ") + format_number(range.low);
  if (has_low && has_high) text += " and";
  if (has_high) text += (range.high_open ? " < " : " <= ") + format_number(range.high);
  return text;
}

std::string name_part(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return std::string(dot == std::string_view::npos ? path : path.substr(dot + 1));
}

std::string section_part(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? std::string() : std::string(path.substr(0, dot));
}

// The path of a key elsewhere that goes by this name, or "".
std::string key_elsewhere(std::string_view name) {
  for (const Key& key : schema_keys()) {
    if (key.name() == name) return key.path;
  }
  for (const auto& [foreign, path] : kForeignNames) {
    if (foreign == name) return std::string(path);
  }
  return "";
}

}  // namespace

bool Range::contains(double value) const {
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

std::string Key::section() const {
  return section_part(path);
}
std::string Key::name() const {
  return name_part(path);
}

std::string Key::legal() const {
  switch (kind) {
    case ValueKind::kBoolean:
      return "true or false";
    case ValueKind::kInteger:
      return "an integer" + describe_range(range);
    case ValueKind::kNumber:
      return "a number" + describe_range(range);
    case ValueKind::kChoice:
      return "one of " + join_words(choices);
    case ValueKind::kText:
      return "text";
    case ValueKind::kPath:
      return "a path";
    case ValueKind::kPaths:
      return "a path or a list of paths";
    case ValueKind::kIntegers:
      return "an integer" + describe_range(range) + " or a list of such";
    case ValueKind::kNumberPair:
      return "a list of two numbers" + describe_range(range);
    case ValueKind::kFaults:
      return "a list of {kind, step, rank, layer}";
    case ValueKind::kGroups:
      return "a list of {match, learning_rate_scale, weight_decay, freeze}";
  }
  return "";
}

const std::vector<Key>& schema_keys() {
  static const std::vector<Key> keys = build_schema();
  return keys;
}

const std::vector<Section>& schema_sections() {
  static const std::vector<Section> sections = {
      {"run", "what the run is called, where it writes, how far its bits can be repeated"},
      {"model", "the Transformer"},
      {"model.rope_scaling", "stretches rotary positions, as in Hugging Face's files"},
      {"data", "tokens to train on"},
      {"batch", "in sequences; accumulation rounds = global / (micro * ranks)"},
      {"train", "how long, and how often to validate"},
      {"loss", "terms beside the cross-entropy"},
      {"optimizer", "the update of a step"},
      {"optimizer.muon", "optimizer.name muon"},
      {"schedule", "the learning rate over applied steps"},
      {"clip", "of the aggregated, unscaled gradient"},
      {"precision", "types of storage and arithmetic"},
      {"precision.loss_scale", "keeps small fp16 gradients above zero"},
      {"parallel", "how ranks share the work"},
      {"backend", "what the ranks run on; the choices made are printed"},
      {"memory", "trades time for memory"},
      {"ema", "averaged weights"},
      {"checkpoint", "what is saved, and when"},
      {"metrics", "what is recorded"},
      {"health", "what is watched"},
  };
  return sections;
}

const Key* find_key(std::string_view path) {
  for (const Key& key : schema_keys()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

bool is_section(std::string_view path) {
  const auto& sections = schema_sections();
  return std::any_of(sections.begin(), sections.end(),
                     [path](const Section& section) { return section.path == path; });
}

std::vector<std::string> names_in(std::string_view section) {
  std::vector<std::string> names;
  for (const Key& key : schema_keys()) {
    if (key.section() == section && key.path != "fault") names.push_back(key.name());
  }
  for (const Section& nested : schema_sections()) {
    if (section_part(nested.path) == section) names.push_back(name_part(nested.path));
  }
  if (section.empty()) names.push_back("fault");
  return names;
}

std::string explain_unknown_key(std::string_view path) {
  const std::string section = section_part(path);
  if (!section.empty() && !is_section(section)) {
    const Key* parent = find_key(section);
    if (parent == nullptr) return explain_unknown_key(section);
    return "unknown key; " + section + " has none below it, it takes " + parent->legal();
  }
  const std::string name = name_part(path);
  const std::vector<std::string> legal = names_in(section);
  std::string suggestion = key_elsewhere(name);
  if (suggestion.empty()) {
    suggestion = nearest_word(name, legal);
    if (!suggestion.empty() && !section.empty()) suggestion = section + "." + suggestion;
  }
  return "unknown key" + (suggestion.empty() ? "." : "; did you mean '" + suggestion + "'?") +
         " Legal " + (section.empty() ? "at the top level" : "in " + section) + ": " +
         join_words(legal);
}

}  // namespace lockstep::runtime
