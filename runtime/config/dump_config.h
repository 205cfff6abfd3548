#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// The resolved configuration as YAML that parses back to the same Config: OUTPUT/config.yaml.
// Numbers are in the shortest form that reads back to the same bits.
std::string to_yaml(const Config& config);

// XXH3-64 over the parts that define the mathematics of a run in canonical form: run.seed, model,
// data, batch, loss, optimizer, schedule, clip, precision, ema. Ranks, stage, output paths and
// cadence are not in it; data paths are not either (the data files' own hashes are in the
// manifest).
std::uint64_t fingerprint(const Config& config);

// One key whose resolved value differs, values as in to_yaml.
struct ConfigDifference {
  std::string key;  // "optimizer.learning_rate"
  std::string before;
  std::string after;
  bool in_fingerprint = false;
};

// Every key that differs, in the order of the schema.
std::vector<ConfigDifference> diff_configs(const Config& before, const Config& after);

}  // namespace lockstep::runtime
