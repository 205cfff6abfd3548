#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/model_config.h"
#include "runtime/interchange/foreign_model.h"

// What each field of a config.json means to us: one table for each model type. A field that no row
// names is an error, so nothing that changes numbers can be passed over unseen.
namespace lockstep::runtime {

class FieldReader;
struct ForeignField;

// Brings one field into reader.result(), or reports what is wrong with it.
using ReadField = void (*)(FieldReader& reader, const ForeignField& field);

struct ForeignField {
  std::string_view name;
  // JSON text of the value that Transformers takes where the field is missing (of version 5; equal
  // in 4 for every field here).
  std::string_view absent = "null";
  ReadField read = nullptr;   // nullptr: without effect on the numbers of a training step
  std::string_view key = "";  // below `model.`; several are separated by a space
};

struct ForeignFamily {
  std::string_view model_type;
  models::Family family = models::Family::kGpt;
  std::vector<ForeignField> fields;
};

// nullptr: not a model type that our keys can express.
const ForeignFamily* find_foreign_family(std::string_view model_type);
std::span<const ForeignFamily> foreign_families();  // sorted by model type

// The state of reading one config.json.
class FieldReader {
 public:
  FieldReader(const ForeignFamily& family, const nlohmann::json& config, ForeignModel& result,
              std::vector<std::string>& problems)
      : family_(family), config_(config), result_(result), problems_(problems) {}

  void read_all();

  models::ModelConfig& model() { return result_.model; }
  ForeignModel& result() { return result_; }

  // The value of a field of the table, or what stands for it where it is missing.
  nlohmann::json value(std::string_view name) const;
  bool given(std::string_view name) const { return config_.contains(name); }

  void reject(std::string_view field, const std::string& expected);
  void note(const std::string& text) { result_.notes.push_back(text); }

  // Of a value that must be one; reports it otherwise and returns `fallback`.
  std::int64_t whole(std::string_view field, const nlohmann::json& value, std::int64_t fallback);
  double number(std::string_view field, const nlohmann::json& value, double fallback);
  bool flag(std::string_view field, const nlohmann::json& value, bool fallback);

 private:
  const ForeignField* row(std::string_view name) const;

  const ForeignFamily& family_;
  const nlohmann::json& config_;
  ForeignModel& result_;
  std::vector<std::string>& problems_;
};

// JSON as text, cut to what fits a message.
std::string json_excerpt(const nlohmann::json& value);

}  // namespace lockstep::runtime
