#include "runtime/interchange/foreign_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "core/input_file.h"
#include "runtime/interchange/foreign_fields.h"

namespace lockstep::runtime {

namespace {

using nlohmann::json;

[[noreturn]] void fail(core::ErrorKind kind, const std::string& origin, const std::string& what) {
  throw core::Error(kind, origin + ": " + what);
}

const ForeignFamily& family_of(const json& config, const std::string& origin) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string())
    fail(core::ErrorKind::kConfig, origin,
         fmt::format("expected a field model_type (one of {}), found {}", known_model_types(),
                     type == config.end() ? "none" : json_excerpt(*type)));
  const ForeignFamily* family = find_foreign_family(type->get_ref<const std::string&>());
  if (family == nullptr)
    fail(core::ErrorKind::kConfig, origin,
         fmt::format("model_type {}: a model of this type cannot be expressed by the keys of the "
                     "model: section; expected one of {}",
                     json_excerpt(*type), known_model_types()));
  return *family;
}

}  // namespace

bool ForeignModel::dropouts_agree() const {
  return std::all_of(dropouts.begin(), dropouts.end(),
                     [&](const auto& each) { return each.second == dropouts.begin()->second; });
}

std::string known_model_types() {
  std::vector<std::string_view> names;
  for (const ForeignFamily& family : foreign_families())
    names.push_back(family.model_type);
  return fmt::format("{}", fmt::join(names, ", "));
}

ForeignModel read_foreign_model(std::string_view text, const std::string& origin) {
  const json config = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object())
    fail(core::ErrorKind::kData, origin,
         text.starts_with("version https://git-lfs.github.com/")
             ? "expected a JSON object, found a Git LFS pointer: run `git lfs pull` there"
             : "expected a JSON object, found something else");
  const ForeignFamily& family = family_of(config, origin);
  ForeignModel result;
  result.model_type = family.model_type;
  result.model = models::family_defaults(family.family);
  std::vector<std::string> problems;
  FieldReader(family, config, result, problems).read_all();
  if (problems.empty()) {
    models::derive_sizes(result.model);
    for (const models::ModelConfigProblem& problem : models::find_problems(result.model))
      problems.push_back(fmt::format("model.{} {}", problem.key, problem.message));
  }
  if (!problems.empty())
    fail(core::ErrorKind::kConfig, origin,
         fmt::format("the {} model it describes cannot be expressed by the keys of the model: "
                     "section: {}",
                     family.model_type, fmt::join(problems, "; ")));
  return result;
}

ForeignModel read_foreign_model(const std::filesystem::path& config_json) {
  return read_foreign_model(core::read_text(config_json), config_json.string());
}

}  // namespace lockstep::runtime
