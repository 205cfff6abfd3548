#pragma once

#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/config/schema.h"

// Inside of the schema: how its rows are written. Not for use outside schema*.cc.
namespace lockstep::runtime {

inline Range at_least(double low) {
  return {.low = low};
}
inline Range above(double low) {
  return {.low = low, .low_open = true};
}
inline Range between(double low, double high) {
  return {.low = low, .high = high};
}
// [low, high) and (low, high)
inline Range below(double low, double high) {
  return {.low = low, .high = high, .high_open = true};
}
inline Range inside(double low, double high) {
  return {.low = low, .high = high, .low_open = true, .high_open = true};
}

// Adds rows to the schema. `field` is a generic lambda from Config& (or const Config&) to the
// member. Without required(), derived() or unset() the default is the value in Config{}.
class SchemaBuilder {
 public:
  explicit SchemaBuilder(std::vector<Key>& keys) : keys_(keys) {}

  template <typename Field>
  SchemaBuilder& boolean(const char* path, Field field, const char* meaning) {
    return plain<bool>(path, ValueKind::kBoolean, field, {}, meaning);
  }
  template <typename Field>
  SchemaBuilder& integer(const char* path, Field field, Range range, const char* meaning) {
    return plain<std::int64_t>(path, ValueKind::kInteger, field, range, meaning);
  }
  template <typename Field>
  SchemaBuilder& number(const char* path, Field field, Range range, const char* meaning) {
    return plain<double>(path, ValueKind::kNumber, field, range, meaning);
  }
  template <typename Field>
  SchemaBuilder& text(const char* path, Field field, const char* meaning) {
    return plain<std::string>(path, ValueKind::kText, field, {}, meaning);
  }
  template <typename Field>
  SchemaBuilder& file(const char* path, Field field, const char* meaning) {
    return plain<std::string>(path, ValueKind::kPath, field, {}, meaning);
  }
  template <typename Field>
  SchemaBuilder& files(const char* path, Field field, const char* meaning) {
    return plain<std::vector<std::string>>(path, ValueKind::kPaths, field, {}, meaning);
  }
  template <typename Field>
  SchemaBuilder& integers(const char* path, Field field, Range range, const char* meaning) {
    return plain<std::vector<std::int64_t>>(path, ValueKind::kIntegers, field, range, meaning);
  }
  template <typename Field>
  SchemaBuilder& pair(const char* path, Field field, Range range, const char* meaning) {
    return plain<std::array<double, 2>>(path, ValueKind::kNumberPair, field, range, meaning);
  }
  template <typename Field>
  SchemaBuilder& faults(const char* path, Field field, const char* meaning) {
    return plain<std::vector<FaultConfig>>(path, ValueKind::kFaults, field, {}, meaning);
  }

  template <typename Field>
  SchemaBuilder& groups(const char* path, Field field, const char* meaning) {
    return plain<std::vector<OptimizerGroup>>(path, ValueKind::kGroups, field, {}, meaning);
  }

  template <typename Field, typename Enum>
  SchemaBuilder& choice(const char* path, Field field,
                        std::initializer_list<std::pair<const char*, Enum>> words,
                        const char* meaning) {
    const std::vector<std::pair<std::string, Enum>> table(words.begin(), words.end());
    Key key{.path = path, .kind = ValueKind::kChoice, .meaning = meaning};
    for (const auto& [word, value] : table)
      key.choices.push_back(word);
    key.get = [field, table](const Config& config) -> Value {
      for (const auto& [word, value] : table) {
        if (field(config) == value) return held(word);
      }
      return std::string();  // not one of the words of this key
    };
    key.set = [field, table](Config& config, const Value& value) {
      for (const auto& [word, member] : table) {
        if (value == Value(word) || value == held(word)) field(config) = member;
      }
    };
    return add(std::move(key));
  }

  // They change the row that was added last.
  SchemaBuilder& required() { return set_default(DefaultKind::kRequired, "required"); }
  SchemaBuilder& derived(const char* text) { return set_default(DefaultKind::kDerived, text); }
  SchemaBuilder& unset(const char* text) { return set_default(DefaultKind::kUnset, text); }

 private:
  // A choice beside true and false is written, and held, as they are elsewhere.
  static Value held(const std::string& word) {
    return word == "true" || word == "false" ? Value(word == "true") : Value(word);
  }

  template <typename Held, typename Field>
  SchemaBuilder& plain(const char* path, ValueKind kind, Field field, Range range,
                       const char* meaning) {
    Key key{.path = path, .kind = kind, .range = range, .meaning = meaning};
    key.get = [field](const Config& config) -> Value { return static_cast<Held>(field(config)); };
    key.set = [field](Config& config, const Value& value) {
      auto& member = field(config);
      member = static_cast<std::remove_reference_t<decltype(member)>>(std::get<Held>(value));
    };
    return add(std::move(key));
  }

  SchemaBuilder& add(Key key) {
    key.default_text = format_value(key.get(Config{}));
    keys_.push_back(std::move(key));
    return *this;
  }
  SchemaBuilder& set_default(DefaultKind kind, const char* text) {
    keys_.back().default_kind = kind;
    keys_.back().default_text = text;
    return *this;
  }

  std::vector<Key>& keys_;
};

// The rows, by topic.
void add_run_keys(SchemaBuilder& schema);
void add_model_keys(SchemaBuilder& schema);
void add_training_keys(SchemaBuilder& schema);   // data ... precision
void add_execution_keys(SchemaBuilder& schema);  // parallel ... fault

}  // namespace lockstep::runtime

// The member of Config that a row stands for.
#define LOCKSTEP_FIELD(member) \
  [](auto& config) -> auto& {  \
    return config.member;      \
  }
