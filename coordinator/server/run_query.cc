#include "coordinator/server/run_query.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <functional>
#include <utility>

#include "coordinator/server/filter_expression.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

using Operator = FilterNode::Operator;
using Predicate = std::function<bool(const Run&)>;

[[noreturn]] void fail(const FilterNode& node, const std::string& message) {
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("filter, column {}: {}", node.column, message));
}

template <typename T>
bool holds(Operator op, const T& left, const T& right) {
  switch (op) {
    case Operator::kEqual:
      return left == right;
    case Operator::kNotEqual:
      return left != right;
    case Operator::kLess:
      return left < right;
    case Operator::kLessEqual:
      return left <= right;
    case Operator::kGreater:
      return left > right;
    case Operator::kGreaterEqual:
      return left >= right;
    case Operator::kHas:
      break;
  }
  return false;
}

bool text_holds(Operator op, std::string_view text, std::string_view value) {
  if (op == Operator::kHas) return text.find(value) != std::string_view::npos;
  return (text == value) == (op == Operator::kEqual);
}

void require_equality(const FilterNode& node, bool contains_too) {
  const bool ok = node.op == Operator::kEqual || node.op == Operator::kNotEqual ||
                  (contains_too && node.op == Operator::kHas);
  if (!ok) {
    fail(node, fmt::format("'{}' compares with = != {}", node.field,
                           contains_too ? "and : (contains)" : "only"));
  }
}

std::int64_t integer(const FilterNode& node) {
  std::int64_t value = 0;
  const char* end = node.value.data() + node.value.size();
  const auto result = std::from_chars(node.value.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) {
    fail(node,
         fmt::format("'{}' compares with a whole number, found '{}'", node.field, node.value));
  }
  return value;
}

void refuse_contains(const FilterNode& node) {
  if (node.op == Operator::kHas) fail(node, fmt::format("'{}' has no ':'", node.field));
}

Predicate text_predicate(const FilterNode& node, std::function<std::string_view(const Run&)> get) {
  require_equality(node, true);
  return [op = node.op, value = node.value, get = std::move(get)](const Run& run) {
    return text_holds(op, get(run), value);
  };
}

Predicate integer_predicate(const FilterNode& node, std::function<std::int64_t(const Run&)> get) {
  refuse_contains(node);
  return [op = node.op, value = integer(node), get = std::move(get)](const Run& run) {
    return holds(op, get(run), value);
  };
}

Predicate time_predicate(const FilterNode& node, std::function<std::int64_t(const Run&)> get) {
  refuse_contains(node);
  std::int64_t value = 0;
  try {
    value = parse_rfc3339(node.value);
  } catch (const core::Error& error) {
    fail(node, error.what());
  }
  return [op = node.op, value, get = std::move(get)](const Run& run) {
    const std::int64_t time = get(run);
    return time != 0 && holds(op, time, value);
  };
}

Predicate bool_predicate(const FilterNode& node, std::function<bool(const Run&)> get) {
  require_equality(node, false);
  if (node.value != "true" && node.value != "false") {
    fail(node, fmt::format("'{}' is true or false, found '{}'", node.field, node.value));
  }
  return [wanted = (node.value == "true") == (node.op == Operator::kEqual),
          get = std::move(get)](const Run& run) { return get(run) == wanted; };
}

Predicate state_predicate(const FilterNode& node) {
  require_equality(node, false);
  try {
    return [state = parse_run_state(node.value), equal = node.op == Operator::kEqual](
               const Run& run) { return (run.state == state) == equal; };
  } catch (const core::Error& error) {
    fail(node, error.what());
  }
}

Predicate label_predicate(const FilterNode& node) {
  require_equality(node, true);
  if (node.member.empty()) fail(node, "a label is written label.KEY");
  return [op = node.op, key = node.member, value = node.value](const Run& run) {
    const auto label = run.labels.find(key);
    if (op == Operator::kHas && value == "*") return label != run.labels.end();
    if (label == run.labels.end()) return op == Operator::kNotEqual;
    return text_holds(op, label->second, value);
  };
}

Predicate comparison(const FilterNode& node) {
  if (node.field == "label" || node.field == "labels") return label_predicate(node);
  if (!node.member.empty()) fail(node, fmt::format("'{}' has no members", node.field));
  if (node.field == "state") return state_predicate(node);
  if (node.field == "owner") return text_predicate(node, &Run::owner);
  if (node.field == "display_name") return text_predicate(node, &Run::display_name);
  if (node.field == "uid") return text_predicate(node, &Run::id);
  if (node.field == "notes") return text_predicate(node, &Run::notes);
  if (node.field == "priority") return integer_predicate(node, &Run::priority);
  if (node.field == "restart_count") return integer_predicate(node, &Run::restart_count);
  if (node.field == "hold") return bool_predicate(node, &Run::hold);
  if (node.field == "suspect") return bool_predicate(node, &Run::suspect);
  if (node.field == "create_time") return time_predicate(node, &Run::create_time_ns);
  if (node.field == "update_time") return time_predicate(node, &Run::update_time_ns);
  if (node.field == "end_time") return time_predicate(node, &Run::end_time_ns);
  fail(node, fmt::format("unknown field '{}'; known: state, owner, display_name, uid, notes, "
                         "label.KEY, priority, restart_count, hold, suspect, create_time, "
                         "update_time, end_time",
                         node.field));
}

}  // namespace

struct RunFilter::Term {
  FilterNode::Kind kind = FilterNode::Kind::kAll;
  std::vector<Term> children;
  Predicate predicate;  // kCompare

  static Term made_from(const FilterNode& node) {
    Term term;
    term.kind = node.kind;
    if (node.kind == FilterNode::Kind::kCompare) term.predicate = comparison(node);
    for (const FilterNode& child : node.children)
      term.children.push_back(made_from(child));
    return term;
  }

  bool matches(const Run& run) const {
    const auto child_matches = [&run](const Term& child) { return child.matches(run); };
    switch (kind) {
      case FilterNode::Kind::kAll:
        return true;
      case FilterNode::Kind::kAnd:
        return std::all_of(children.begin(), children.end(), child_matches);
      case FilterNode::Kind::kOr:
        return std::any_of(children.begin(), children.end(), child_matches);
      case FilterNode::Kind::kNot:
        return !children.front().matches(run);
      case FilterNode::Kind::kCompare:
        return predicate(run);
    }
    return false;
  }
};

RunFilter::RunFilter() : root_(std::make_unique<Term>()) {}
RunFilter::RunFilter(std::string_view text)
    : root_(std::make_unique<Term>(Term::made_from(parse_filter(text)))) {}
RunFilter::~RunFilter() = default;
RunFilter::RunFilter(RunFilter&&) noexcept = default;
RunFilter& RunFilter::operator=(RunFilter&&) noexcept = default;

bool RunFilter::matches(const Run& run) const {
  return root_->matches(run);
}

RunOrder::RunOrder(std::string_view text) {
  if (text.empty()) return;
  const std::size_t space = text.find(' ');
  const std::string_view name = text.substr(0, space);
  const std::string_view direction =
      space == std::string_view::npos ? std::string_view() : text.substr(space + 1);
  static constexpr std::pair<std::string_view, Field> kFields[] = {
      {"create_time", Field::kCreateTime},
      {"priority", Field::kPriority},
      {"state", Field::kState},
      {"display_name", Field::kDisplayName}};
  const auto* found = std::find_if(std::begin(kFields), std::end(kFields),
                                   [name](const auto& entry) { return entry.first == name; });
  if (found == std::end(kFields) || !(direction.empty() || direction == "desc")) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("order_by: expected create_time, priority, state or "
                                  "display_name, each with or without ' desc', found '{}'",
                                  text));
  }
  field_ = found->second;
  descending_ = direction == "desc";
}

std::string RunOrder::key_of(const Run& run) const {
  switch (field_) {
    case Field::kCreateTime:
      return std::to_string(run.create_time_ns);
    case Field::kPriority:
      return std::to_string(run.priority);
    case Field::kState:
      return std::to_string(static_cast<int>(run.state));
    case Field::kDisplayName:
      break;
  }
  return run.display_name;
}

// -1, 0, 1: the run's value is less than, equal to, greater than what `key` says.
int RunOrder::compare(const Run& run, std::string_view key) const {
  if (field_ == Field::kDisplayName) {
    const int order = run.display_name.compare(key);
    return order < 0 ? -1 : (order > 0 ? 1 : 0);
  }
  std::int64_t other = 0;
  std::from_chars(key.data(), key.data() + key.size(), other);
  const std::int64_t own = field_ == Field::kCreateTime ? run.create_time_ns
                           : field_ == Field::kPriority ? run.priority
                                                        : static_cast<std::int64_t>(run.state);
  return own < other ? -1 : (own > other ? 1 : 0);
}

bool RunOrder::behind(const Run& run, std::string_view key, std::string_view id) const {
  int order = compare(run, key);
  if (order == 0) order = run.id.compare(id) < 0 ? -1 : (run.id == id ? 0 : 1);
  return descending_ ? order < 0 : order > 0;
}

bool RunOrder::before(const Run& a, const Run& b) const {
  int order = 0;
  switch (field_) {
    case Field::kCreateTime:
      order = a.create_time_ns < b.create_time_ns ? -1 : (a.create_time_ns > b.create_time_ns);
      break;
    case Field::kPriority:
      order = a.priority < b.priority ? -1 : (a.priority > b.priority);
      break;
    case Field::kState:
      order = a.state < b.state ? -1 : (a.state > b.state);
      break;
    case Field::kDisplayName:
      order = a.display_name.compare(b.display_name);
      break;
  }
  if (order == 0) order = a.id.compare(b.id);
  return descending_ ? order > 0 : order < 0;
}

namespace {

// Two or four digits at `at`; -1 if they are not digits.
int digits(std::string_view text, std::size_t at, std::size_t count) {
  int value = 0;
  for (std::size_t i = at; i < at + count; ++i) {
    if (i >= text.size() || text[i] < '0' || text[i] > '9') return -1;
    value = value * 10 + (text[i] - '0');
  }
  return value;
}

// "Z" or "+hh:mm" from `at` to the end, in seconds east of UTC.
bool parse_offset(std::string_view text, std::size_t at, std::int64_t& seconds) {
  const std::string_view rest = text.substr(at);
  seconds = 0;
  if (rest == "Z" || rest == "z") return true;
  if (rest.size() != 6 || (rest[0] != '+' && rest[0] != '-') || rest[3] != ':') return false;
  const int hours = digits(rest, 1, 2);
  const int minutes = digits(rest, 4, 2);
  if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return false;
  seconds = (rest[0] == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
  return true;
}

bool parse_time(std::string_view text, std::int64_t& nanoseconds) {
  if (text.size() < 20 || text.size() > 40 || text[4] != '-' || text[7] != '-' ||
      (text[10] != 'T' && text[10] != 't') || text[13] != ':' || text[16] != ':') {
    return false;
  }
  const int part[6] = {digits(text, 0, 4),  digits(text, 5, 2),  digits(text, 8, 2),
                       digits(text, 11, 2), digits(text, 14, 2), digits(text, 17, 2)};
  if (*std::min_element(std::begin(part), std::end(part)) < 0) return false;
  const std::chrono::year_month_day date{std::chrono::year(part[0]),
                                         std::chrono::month(static_cast<unsigned>(part[1])),
                                         std::chrono::day(static_cast<unsigned>(part[2]))};
  if (!date.ok() || part[0] < 1970 || part[0] > 2200 || part[3] > 23 || part[4] > 59 ||
      part[5] > 60) {
    return false;
  }
  std::size_t at = 19;
  std::int64_t fraction = 0;
  if (text[at] == '.') {
    std::int64_t unit = 100'000'000;
    const std::size_t begin = ++at;
    for (; at < text.size() && digits(text, at, 1) >= 0; ++at, unit /= 10)
      fraction += unit * digits(text, at, 1);
    if (at == begin) return false;
  }
  std::int64_t offset = 0;
  if (!parse_offset(text, at, offset)) return false;
  const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  const std::int64_t seconds = days * 86400 + part[3] * 3600 + part[4] * 60 + part[5] - offset;
  nanoseconds = seconds * kSecond + fraction;
  return true;
}

}  // namespace

std::int64_t parse_rfc3339(std::string_view text) {
  std::int64_t nanoseconds = 0;
  if (!parse_time(text, nanoseconds)) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("expected a time as 2026-11-21T01:02:03Z (quoted), found '{}'", text));
  }
  return nanoseconds;
}

}  // namespace lockstep::coordinator
