#pragma once

#include <string>
#include <vector>

namespace lockstep::runtime {

// Where something was written. Line and column count from 1; line 0: `source` is not a file but an
// override such as "--set train.steps=0", or a file as a whole.
struct Location {
  std::string source;
  int line = 0;
  int column = 0;

  std::string text() const;  // "config.yaml:3:5" or just the source
};

// Collects what is wrong with a configuration, so that one run of a check tells everything.
class Problems {
 public:
  // One line per problem: "config.yaml:3:5: train.steps: message". `key` may be empty.
  void add(const Location& where, const std::string& key, const std::string& message);

  bool empty() const { return items_.empty(); }

  // Error(kConfig) with every problem on a line of its own, in the order of the file, overrides
  // last. Returns only if there is none.
  void throw_if_any() const;

 private:
  struct Item {
    Location where;
    std::string text;
  };
  std::vector<Item> items_;
};

}  // namespace lockstep::runtime
