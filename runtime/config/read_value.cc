#include "runtime/config/read_value.h"

#include <string>

#include "runtime/config/nearest.h"
#include "runtime/config/read_faults.h"
#include "runtime/config/read_groups.h"
#include "runtime/config/scalar.h"

namespace lockstep::runtime {
namespace {

class Reader {
 public:
  Reader(const Entry& entry, Problems& problems)
      : entry_(entry), key_(*entry.key), problems_(problems) {}

  std::optional<Value> read() {
    const YAML::Node& node = entry_.node;
    if (node.IsNull()) {
      return reject("expected " + key_.legal() + ", found nothing");
    }
    switch (key_.kind) {
      case ValueKind::kPaths:
        return paths(node);
      case ValueKind::kIntegers:
        return integers(node);
      case ValueKind::kNumberPair:
        return pair(node);
      case ValueKind::kFaults:
        return faults(node);
      case ValueKind::kGroups:
        return groups(node);
      default:
        break;
    }
    if (!node.IsScalar()) {
      return reject("expected " + key_.legal() + ", found " + describe_node(node));
    }
    return scalar(node);
  }

 private:
  std::optional<Value> reject(const std::string& message) { return reject(entry_.where, message); }
  std::optional<Value> reject(const Location& where, const std::string& message) {
    problems_.add(where, key_.path, message);
    return std::nullopt;
  }

  std::optional<Value> scalar(const YAML::Node& node) {
    switch (key_.kind) {
      case ValueKind::kBoolean:
        return accept(read_boolean(node));
      case ValueKind::kInteger:
        return in_range(read_integer(node));
      case ValueKind::kNumber:
        return in_range(read_number(node));
      case ValueKind::kChoice:
        return accept(read_choice(node, key_.choices));
      case ValueKind::kPath:
        return accept(read_path(node));
      default:
        return Value(node.Scalar());
    }
  }

  template <typename T>
  std::optional<Value> accept(const Scalar<T>& scalar) {
    if (!scalar.value) return reject(scalar.problem + "; legal: " + key_.legal());
    return Value(*scalar.value);
  }

  template <typename T>
  std::optional<Value> in_range(const Scalar<T>& scalar) {
    if (scalar.value && !key_.range.contains(static_cast<double>(*scalar.value))) {
      return reject("must be " + key_.legal() + ", is " + format_value(Value(*scalar.value)));
    }
    return accept(scalar);
  }

  std::optional<Value> paths(const YAML::Node& node) {
    std::vector<std::string> texts;
    if (!node.IsSequence()) {
      if (!node.IsScalar()) return reject("expected " + key_.legal() + ", found a map");
      const Scalar<std::string> path = read_path(node);
      if (!path.value) return reject(path.problem);
      return Value(std::vector<std::string>{*path.value});
    }
    for (const YAML::Node& item : node) {
      if (!item.IsScalar()) return reject("expected a list of paths, found " + describe_node(item));
      const Scalar<std::string> path = read_path(item);
      if (!path.value) return reject(path.problem);
      texts.push_back(*path.value);
    }
    if (texts.empty()) return reject("the list is empty; expected at least one path");
    return Value(texts);
  }

  std::optional<Value> integers(const YAML::Node& node) {
    if (node.IsMap() || (node.IsSequence() && node.size() == 0)) {
      return reject("expected " + key_.legal() + ", found " +
                    (node.IsMap() ? "a map" : "an empty list"));
    }
    std::vector<std::int64_t> numbers;
    const std::size_t count = node.IsSequence() ? node.size() : 1;
    for (std::size_t i = 0; i < count; ++i) {
      const Scalar<std::int64_t> number = read_integer(node.IsSequence() ? node[i] : node);
      if (!number.value) return reject(number.problem + "; legal: " + key_.legal());
      if (!key_.range.contains(static_cast<double>(*number.value))) {
        return reject("must be " + key_.legal() + ", found " + std::to_string(*number.value));
      }
      numbers.push_back(*number.value);
    }
    return Value(numbers);
  }

  std::optional<Value> pair(const YAML::Node& node) {
    std::array<double, 2> numbers{};
    if (!node.IsSequence() || node.size() != numbers.size()) {
      return reject(
          "expected " + key_.legal() + ", found " +
          (node.IsSequence() ? "a list of " + std::to_string(node.size()) : describe_node(node)));
    }
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const Scalar<double> number = read_number(node[i]);
      if (!number.value) return reject(number.problem + "; legal: " + key_.legal());
      if (!key_.range.contains(*number.value)) {
        return reject("must be " + key_.legal() + ", found " + format_number(*number.value));
      }
      numbers[i] = *number.value;
    }
    return Value(numbers);
  }

  std::optional<Value> faults(const YAML::Node& node) {
    std::optional<std::vector<FaultConfig>> list = read_faults(node, entry_.where, problems_);
    if (!list) return std::nullopt;
    return Value(*std::move(list));
  }

  std::optional<Value> groups(const YAML::Node& node) {
    std::optional<std::vector<OptimizerGroup>> list = read_groups(node, entry_.where, problems_);
    if (!list) return std::nullopt;
    return Value(*std::move(list));
  }

  const Entry& entry_;
  const Key& key_;
  Problems& problems_;
};

}  // namespace

std::optional<Value> read_value(const Entry& entry, Problems& problems) {
  return Reader(entry, problems).read();
}

}  // namespace lockstep::runtime
