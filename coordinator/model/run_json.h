#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "coordinator/model/run.h"

// The form in which the store keeps records and the contexts of events hold their parts: members
// named as in the structs, enums by name, no texts (those are kept apart). Members that are missing
// get their defaults, so that an older store can be read. from_json throws
// nlohmann::json::exception or core::Error(kData).
namespace lockstep::coordinator {

void to_json(nlohmann::json& json, const BootTime& value);  // null: not known
void from_json(const nlohmann::json& json, BootTime& value);
void to_json(nlohmann::json& json, const Resources& value);
void from_json(const nlohmann::json& json, Resources& value);
void to_json(nlohmann::json& json, const RetryPolicy& value);
void from_json(const nlohmann::json& json, RetryPolicy& value);
void to_json(nlohmann::json& json, const Progress& value);
void from_json(const nlohmann::json& json, Progress& value);
void to_json(nlohmann::json& json, const Placement& value);
void from_json(const nlohmann::json& json, Placement& value);
void to_json(nlohmann::json& json, const ExitInfo& value);
void from_json(const nlohmann::json& json, ExitInfo& value);
void to_json(nlohmann::json& json, const Attempt& value);
void from_json(const nlohmann::json& json, Attempt& value);
void to_json(nlohmann::json& json, const Run& value);
void from_json(const nlohmann::json& json, Run& value);
void to_json(nlohmann::json& json, const RunRecord& value);
void from_json(const nlohmann::json& json, RunRecord& value);

// The one text of a value: sorted keys, no spaces; bytes that are not UTF-8 are replaced.
std::string canonical_text(const nlohmann::json& json);

}  // namespace lockstep::coordinator
