#include "runtime/config/read_faults.h"

#include <algorithm>
#include <set>
#include <string>

#include "runtime/config/document.h"
#include "runtime/config/nearest.h"
#include "runtime/config/scalar.h"
#include "runtime/config/value.h"

namespace lockstep::runtime {
namespace {

const std::vector<std::string>& item_keys() {
  static const std::vector<std::string> keys = {"kind", "step", "rank", "layer"};
  return keys;
}

// Reads one item of the list.
class ItemReader {
 public:
  ItemReader(std::string path, Location where, Problems& problems)
      : path_(std::move(path)), where_(std::move(where)), problems_(problems) {}

  bool read(const YAML::Node& item, FaultConfig& fault) {
    if (!item.IsMap()) {
      return reject(item, path_,
                    "expected {kind, step, rank, layer}, found " + describe_node(item));
    }
    std::set<std::string> seen;
    for (const auto& pair : item) {
      const std::string name = pair.first.IsScalar() ? pair.first.Scalar() : "";
      if (!seen.insert(name).second) {
        reject(pair.first, path_ + "." + name, "duplicate key; remove one of the two");
      } else {
        read_member(name, pair.first, pair.second, fault);
      }
    }
    for (const char* needed : {"kind", "step"}) {
      if (!seen.contains(needed)) reject(item, path_, std::string(needed) + " is required");
    }
    return good_;
  }

 private:
  bool reject(const YAML::Node& node, const std::string& path, const std::string& message) {
    Location where = where_;
    if (where.line != 0 && !node.Mark().is_null()) {
      where.line = node.Mark().line + 1;
      where.column = node.Mark().column + 1;
    }
    problems_.add(where, path, message);
    return good_ = false;
  }

  void read_member(const std::string& name, const YAML::Node& key, const YAML::Node& value,
                   FaultConfig& fault) {
    const std::string path = path_ + "." + name;
    if (name == "kind") {
      read_kind(path, value, fault);
    } else if (name == "step") {
      read_count(path, value, 1, fault.step);
    } else if (name == "rank") {
      read_count(path, value, 0, fault.rank);
    } else if (name == "layer") {
      read_count(path, value, 0, fault.layer);
    } else {
      const std::string nearest = nearest_word(name, item_keys());
      reject(key, path,
             "unknown key" + (nearest.empty() ? "" : "; did you mean '" + nearest + "'?") +
                 " Legal: " + join_words(item_keys()));
    }
  }

  void read_kind(const std::string& path, const YAML::Node& value, FaultConfig& fault) {
    const std::vector<std::string>& words = fault_words();
    const std::string legal = "; legal: one of " + join_words(words);
    if (!value.IsScalar()) {
      reject(value, path, "found " + describe_node(value) + legal);
      return;
    }
    const Scalar<std::string> word = read_choice(value, words);
    if (!word.value) {
      reject(value, path, word.problem + legal);
      return;
    }
    const auto index = std::find(words.begin(), words.end(), *word.value) - words.begin();
    fault.kind = static_cast<FaultKind>(index);
  }

  void read_count(const std::string& path, const YAML::Node& value, std::int64_t least,
                  std::int64_t& member) {
    const Scalar<std::int64_t> count = read_integer(value);
    const std::string legal = "an integer >= " + std::to_string(least);
    if (!count.value) {
      reject(value, path, count.problem + "; legal: " + legal);
    } else if (*count.value < least) {
      reject(value, path, "must be " + legal + ", is " + std::to_string(*count.value));
    } else {
      member = *count.value;
    }
  }

  std::string path_;
  Location where_;
  Problems& problems_;
  bool good_ = true;
};

}  // namespace

std::optional<std::vector<FaultConfig>> read_faults(const YAML::Node& list, const Location& where,
                                                    Problems& problems) {
  if (!list.IsSequence()) {
    problems.add(where, "fault",
                 "expected a list of {kind, step, rank, layer}, found " + describe_node(list));
    return std::nullopt;
  }
  std::vector<FaultConfig> faults;
  bool good = true;
  for (const YAML::Node& item : list) {
    const std::string path = "fault[" + std::to_string(faults.size()) + "]";
    FaultConfig fault;
    good = ItemReader(path, where, problems).read(item, fault) && good;
    faults.push_back(fault);
  }
  if (!good) return std::nullopt;
  return faults;
}

}  // namespace lockstep::runtime
