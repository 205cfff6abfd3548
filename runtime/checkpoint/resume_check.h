#pragma once

#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/config/dump_config.h"

namespace lockstep::runtime {

// Whether a run of `config` on these training files may continue from a checkpoint. A changed
// `model.*` key or changed data is Error(kConfig) naming it; every other key that differs is
// returned, to be told. (Where OUTPUT lies is not a difference.)
std::vector<ConfigDifference> check_resumable(const CheckpointManifest& manifest,
                                              const Config& config,
                                              const std::vector<DataFingerprint>& training_files);

// The members of the `resume` line of metrics.jsonl: step, checkpoint, world size, and every
// changed key with old and new value.
std::string resume_fields(const CheckpointManifest& manifest,
                          const std::vector<ConfigDifference>& changes);

}  // namespace lockstep::runtime
