#include "runtime/data/json_lines.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace lockstep::runtime {

using nlohmann::json;

void visit_json_lines(std::string_view text, const std::string& file,
                      const std::function<void(const json&, const std::string&)>& visit) {
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::size_t n = std::min(text.find('\n'), text.size());
    const std::string_view content = text.substr(0, n);
    text.remove_prefix(std::min(n + 1, text.size()));
    if (content.find_first_not_of(" \t\r") == content.npos) continue;
    const std::string place = fmt::format("{}:{}", file, line);
    const json object = json::parse(content, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object())
      throw core::Error(core::ErrorKind::kData, place + ": expected a JSON object on each line");
    visit(object, place);
  }
}

std::string text_of_field(const json& object, const std::string& name, const std::string& place) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_string())
    fail_on_field(found == object.end() ? nullptr : &*found, name, "a string", place);
  return found->get<std::string>();
}

void fail_on_field(const json* found, const std::string& name, const std::string& expected,
                   const std::string& place) {
  std::string what =
      found == nullptr ? "none" : found->dump(-1, ' ', false, json::error_handler_t::replace);
  if (what.size() > 100) what = what.substr(0, 100) + "...";
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("{}: \"{}\": expected {}, found {}", place, name, expected, what));
}

}  // namespace lockstep::runtime
