#pragma once

#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/config/value.h"

namespace lockstep::runtime {

enum class ValueKind {
  kBoolean,
  kInteger,
  kNumber,
  kChoice,
  kText,
  kPath,
  kPaths,       // one path or a list
  kIntegers,    // one integer or a list
  kNumberPair,  // a list of two numbers
  kFaults,      // a list of {kind, step, rank, layer}
  kGroups,      // a list of {match, learning_rate_scale, weight_decay, freeze}
};

// Bounds of a number (of both, in a pair); open: the bound itself is not legal.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;

  bool contains(double value) const;
};

enum class DefaultKind {
  kValue,     // the value in Config{}
  kRequired,  // none: the key must be given
  kDerived,   // follows from other keys, as default_text says
  kUnset,     // not given, which Config{} holds as a value that no file can write
};

// All there is to know about one key. The parser, `lockstep config defaults`, the documentation,
// the stored configuration and the fingerprint all read this table and nothing else.
struct Key {
  std::string path{};  // "precision.loss_scale.initial"
  ValueKind kind = ValueKind::kText;
  Range range{};
  std::vector<std::string> choices{};
  DefaultKind default_kind = DefaultKind::kValue;
  std::string default_text{};
  std::string meaning{};
  bool in_fingerprint = false;
  std::function<Value(const Config&)> get{};
  std::function<void(Config&, const Value&)> set{};

  std::string section() const;  // "precision.loss_scale"; "" for a key of the top level
  std::string name() const;     // "initial"
  std::string legal() const;    // "an integer >= 1", "one of fp32, bf16, fp16"
};

struct Section {
  std::string path;
  std::string meaning;
};

const std::vector<Key>& schema_keys();          // in the order in which they are shown
const std::vector<Section>& schema_sections();  // likewise; nested ones after their parent

const Key* find_key(std::string_view path);  // nullptr: no such key
bool is_section(std::string_view path);

// Names legal directly below a section ("" is the top level): its keys and its sections.
std::vector<std::string> names_in(std::string_view section);

// What is wrong with an unknown key and what to write instead, e.g.
// "unknown key; did you mean 'learning_rate'? Legal here: name, learning_rate, ...".
std::string explain_unknown_key(std::string_view path);

}  // namespace lockstep::runtime
