#include "runtime/config/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/config/nearest.h"
#include "runtime/config/not_built.h"
#include "runtime/config/schema.h"

namespace lockstep::runtime {
namespace {

const NotBuilt* not_built_row(const Key& key) {
  const std::string path = key.path == "fault" ? "fault.kind" : key.path;
  const auto& table = not_built_table();
  const auto row = std::find_if(table.begin(), table.end(),
                                [&path](const NotBuilt& item) { return item.path == path; });
  return row == table.end() ? nullptr : &*row;
}

// "not built yet: averaging the weights; only 0" or "".
std::string limitation(const Key& key) {
  const NotBuilt* row = not_built_row(key);
  if (row == nullptr) return "";
  return "not built yet: " + row->part + "; " +
         (row->built.empty() ? "leave it out" : "only " + join_words(row->built));
}

const char* type_name(ValueKind kind) {
  switch (kind) {
    case ValueKind::kBoolean:
      return "boolean";
    case ValueKind::kInteger:
      return "integer";
    case ValueKind::kNumber:
      return "number";
    case ValueKind::kChoice:
      return "choice";
    case ValueKind::kText:
      return "text";
    case ValueKind::kPath:
      return "path";
    case ValueKind::kPaths:
      return "paths";
    case ValueKind::kIntegers:
      return "integers";
    case ValueKind::kNumberPair:
      return "pair";
    case ValueKind::kFaults:
    case ValueKind::kGroups:
      return "list";
  }
  return "";
}

std::string indent_of(const std::string& section) {
  if (section.empty()) return "";
  const auto dots = static_cast<std::size_t>(std::count(section.begin(), section.end(), '.'));
  return std::string(2 * (dots + 1), ' ');
}

std::string yaml_heading(const Section& section) {
  const std::size_t dot = section.path.rfind('.');
  const std::string name = dot == std::string::npos ? section.path : section.path.substr(dot + 1);
  const std::string indent = dot == std::string::npos ? "" : "  ";
  return fmt::format("{}{}:  # {}\n", indent, name, section.meaning);
}

std::string yaml_row(const Key& key) {
  const bool fixed = key.default_kind == DefaultKind::kValue;
  const std::string left = indent_of(key.section()) + (fixed ? "" : "# ") + key.name() + ":" +
                           (fixed ? " " + key.default_text : "");
  std::string comment = key.meaning + "; " + key.legal();
  if (!fixed) comment = "[" + key.default_text + "] " + comment;
  const std::string limit = limitation(key);
  if (!limit.empty()) comment += " (" + limit + ")";
  return fmt::format("{:<32}  # {}\n", left, comment);
}

// '|' would end a cell.
std::string cell(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string markdown_row(const Key& key) {
  const bool fixed = key.default_kind == DefaultKind::kValue;
  const std::string shown = fixed ? "`" + key.default_text + "`" : key.default_text;
  const std::string limit = limitation(key);
  return fmt::format("| `{}` | {} | {} | {}{} |\n", key.name(), cell(key.legal()), cell(shown),
                     cell(key.meaning), limit.empty() ? "" : " *(" + cell(limit) + ")*");
}

const char* const kMarkdownHead = "| key | legal | default | meaning |\n|---|---|---|---|\n";

// The rows of a section, or those outside of all sections ("").
template <typename Row>
std::string rows_of(const std::string& section, Row row) {
  std::string text;
  for (const Key& key : schema_keys()) {
    if (key.section() == section) text += row(key);
  }
  return text;
}

}  // namespace

std::string defaults_as_yaml() {
  std::string text;
  for (const Section& section : schema_sections()) {
    text += yaml_heading(section) + rows_of(section.path, yaml_row);
  }
  return text + rows_of("", yaml_row);
}

std::string defaults_as_json() {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Key& key : schema_keys()) {
    nlohmann::ordered_json row = {{"key", key.path},
                                  {"type", type_name(key.kind)},
                                  {"default", key.default_text},
                                  {"legal", key.legal()},
                                  {"meaning", key.meaning},
                                  {"required", key.default_kind == DefaultKind::kRequired},
                                  {"not_built", nullptr}};
    const std::string limit = limitation(key);
    if (!limit.empty()) row["not_built"] = limit;
    list.push_back(std::move(row));
  }
  return list.dump(1) + "\n";
}

std::string defaults_as_markdown() {
  std::string text;
  for (const Section& section : schema_sections()) {
    text += fmt::format("### `{}`: {}\n\n{}{}\n", section.path, section.meaning, kMarkdownHead,
                        rows_of(section.path, markdown_row));
  }
  return text + "### `fault`\n\n" + kMarkdownHead + rows_of("", markdown_row);
}

}  // namespace lockstep::runtime
