#include "runtime/config/load_config.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <system_error>

#include "core/error.h"
#include "runtime/config/document.h"
#include "runtime/config/not_built.h"
#include "runtime/config/problems.h"
#include "runtime/config/read_value.h"
#include "runtime/config/rules.h"
#include "runtime/config/schema.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kLargestFile = 1 << 20;  // bytes; nothing written by people is longer

std::string absolute_path(const std::string& path) {
  return fs::absolute(path).lexically_normal().string();
}

// The values that were written, each legal by itself.
std::map<std::string, Value> read_values(const Document& document, Problems& problems) {
  std::map<std::string, Value> values;
  for (const auto& [path, entry] : document.entries()) {
    if (std::optional<Value> value = read_value(entry, problems)) values[path] = *std::move(value);
  }
  for (const Key& key : schema_keys()) {
    if (key.default_kind == DefaultKind::kRequired && !document.given(key.path)) {
      problems.add(document.where(key.path), key.path,
                   "is required and missing: " + key.meaning + "; legal: " + key.legal());
    }
  }
  return values;
}

// Config with what was written over the defaults that do not depend on other values.
Config assign(const std::map<std::string, Value>& values) {
  Config config;
  const Key* family = find_key("model.family");
  const auto given_family = values.find(family->path);
  if (given_family != values.end()) family->set(config, given_family->second);
  config.model = models::family_defaults(config.model.family);
  for (const auto& [path, value] : values)
    find_key(path)->set(config, value);
  return config;
}

std::vector<std::string> default_validation(const DataConfig& data) {
  if (data.train.size() != 1) return {};
  std::error_code ignored;  // a path that cannot be looked at holds no validation data
  const fs::path folder = data.train.front();
  if (!fs::exists(folder / "validation.bin", ignored)) return {};
  return {folder.string()};
}

void make_paths_absolute(Config& config) {
  config.run.output = absolute_path(config.run.output);
  if (!config.init_from.empty()) config.init_from = absolute_path(config.init_from);
  for (std::string& path : config.data.train)
    path = absolute_path(path);
  for (std::string& path : config.data.validation)
    path = absolute_path(path);
}

// Fills in the defaults that follow from other values.
void derive(Config& config, const Document& document) {
  const auto given = [&document](const char* path) { return document.given(path); };
  models::derive_sizes(config.model);
  if (!given("run.name")) config.run.name = fs::path(config.source).stem().string();
  if (!given("run.output")) config.run.output = "runs/" + config.run.name;
  if (!given("schedule.total_steps")) config.schedule.total_steps = config.train.steps;
  if (!given("parallel.grad_sync")) {
    const bool every_round =
        config.parallel.zero_stage == 2 || config.run.reproducible == Reproducible::kRanks;
    config.parallel.grad_sync = every_round ? GradSync::kEveryRound : GradSync::kBoundary;
  }
  if (!given("precision.loss_scale.mode")) {
    const bool half = config.precision.compute == core::DType::kF16;
    config.precision.loss_scale.mode = half ? LossScaleMode::kDynamic : LossScaleMode::kNone;
  }
  if (!given("optimizer.muon.adamw_learning_rate"))
    config.optimizer.muon.adamw_learning_rate = config.optimizer.learning_rate;
  const bool by_tensor = config.clip.mode == ClipMode::kAdaGc;
  if (!given("clip.window_decay") && by_tensor) config.clip.window_decay = 0.99;
  if (!given("clip.warmup_steps")) {
    config.clip.warmup_steps = by_tensor ? 100 : config.clip.mode == ClipMode::kZClip ? 25 : 0;
  }
  if (!given("data.validation")) config.data.validation = default_validation(config.data);
  make_paths_absolute(config);
}

std::string read_file(const fs::path& file) {
  const auto fail = [&file](const std::string& why) {
    throw core::Error(core::ErrorKind::kConfig,
                      file.string() + ": cannot read the configuration: " + why);
  };
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (!fs::exists(status)) fail("no such file");
  if (fs::is_directory(status)) fail("it is a directory");
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail(std::strerror(errno));
  // A pipe or a device does not say how much is in it, and may never end.
  std::string text(kLargestFile + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad()) fail(std::strerror(errno));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  if (text.size() > kLargestFile) fail("it is larger than 1 MiB, so hardly a configuration");
  return text;
}

}  // namespace

Config parse_config(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides) {
  Problems problems;
  Document document(text, source, problems);
  for (const std::string& assignment : overrides)
    document.apply_override(assignment, problems);
  const std::map<std::string, Value> values = read_values(document, problems);
  for (const auto& [path, value] : values) {
    check_built(path, value, document.where(path), problems);
  }
  problems.throw_if_any();

  Config config = assign(values);
  config.source = source;
  derive(config, document);
  if (!document.given("model.task")) {
    check_built("model.task", find_key("model.task")->get(config), document.where("model.family"),
                problems);
  }
  check_rules(config, document, problems);
  problems.throw_if_any();
  return config;
}

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse_config(read_file(file), file.string(), overrides);
}

}  // namespace lockstep::runtime
