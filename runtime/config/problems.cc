#include "runtime/config/problems.h"

#include <algorithm>
#include <climits>
#include <tuple>

#include "core/error.h"

namespace lockstep::runtime {

std::string Location::text() const {
  if (line == 0) return source;
  return source + ":" + std::to_string(line) + ":" + std::to_string(column);
}

void Problems::add(const Location& where, const std::string& key, const std::string& message) {
  std::string text = where.text() + ": ";
  if (!key.empty()) text += key + ": ";
  items_.push_back({where, text + message});
}

void Problems::throw_if_any() const {
  if (items_.empty()) return;
  std::vector<Item> ordered = items_;
  const auto position = [](const Item& item) {
    return std::tuple(item.where.line == 0 ? INT_MAX : item.where.line, item.where.column);
  };
  std::stable_sort(ordered.begin(), ordered.end(),
                   [&](const Item& a, const Item& b) { return position(a) < position(b); });
  std::string message;
  for (const Item& item : ordered) {
    if (!message.empty()) message += '\n';
    message += item.text;
  }
  throw core::Error(core::ErrorKind::kConfig, message);
}

}  // namespace lockstep::runtime
