#include "runtime/config/not_built.h"

#include <algorithm>

#include "runtime/config/nearest.h"

namespace lockstep::runtime {
namespace {

void check_one(const NotBuilt& row, const std::string& path, const std::string& text,
               const Location& where, Problems& problems) {
  if (std::find(row.built.begin(), row.built.end(), text) != row.built.end()) return;
  const std::string way_out =
      row.built.empty() ? "leave the key out" : "legal now: " + join_words(row.built);
  problems.add(where, path, text + " is not built yet (" + row.part + "); " + way_out);
}

}  // namespace

const std::vector<NotBuilt>& not_built_table() {
  static const std::vector<NotBuilt> table = {
      {"model.task", {"causal_lm"}, "the data path of masked_lm and classification"},
      {"data.mask_probability", {"0.15"}, "the data path of masked_lm"},
      {"data.mask_token", {}, "the data path of masked_lm"},
      {"data.label_field", {}, "the data path of classification"},
  };
  return table;
}

void check_built(const std::string& path, const Value& value, const Location& where,
                 Problems& problems) {
  for (const NotBuilt& row : not_built_table()) {
    if (row.path == path) check_one(row, path, format_value(value), where, problems);
    if (row.path == "fault.kind" && path == "fault") {
      for (const FaultConfig& fault : std::get<std::vector<FaultConfig>>(value)) {
        check_one(row, row.path, word_of(fault.kind), where, problems);
      }
    }
  }
}

}  // namespace lockstep::runtime
