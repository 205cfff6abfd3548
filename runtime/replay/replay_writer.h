#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/log.h"
#include "models/model_io.h"
#include "models/parameter_table.h"
#include "runtime/config/config.h"
#include "runtime/data/token_dataset.h"
#include "runtime/replay/replay_bundle.h"
#include "runtime/sharding/bucket_layout.h"
#include "runtime/step/step_decision.h"

namespace lockstep::runtime {

// Whether a bundle of this step is to be kept: of a step that overflowed, diverged or spiked, if it
// is the first of a stretch of skips, ends the run or rolls it back; and of a step without tokens
// that ends it.
// `before` is the state that the decision was taken from. The same on every rank.
bool replay_due(const StepDecision& decision, const DecisionState& before);

// What the reports of a step say, for its bundle. reports[r] is rank r's.
ReplayRecord make_replay_record(const StepDecision& decision, std::span<const StepReport> reports,
                                const models::ParameterTable& table, const BucketLayout& layout);

// Writes the bundles of a run: rank 0 alone, without any communication. The parameters must be
// those of the step, as they still are when it was not applied and no other followed.
class ReplayWriter {
 public:
  // context: where the parameters lie, or their copies on the host.
  ReplayWriter(const Config& config, const models::ParameterTable& table, ops::OpContext& context,
               core::Logger& log);

  // Leaves the newest health.replay_bundles. Never throws: what fails is a warning, because no run
  // may end for want of a bundle. Nothing is written where less than twice its size is free.
  void write(const ReplayRecord& record, models::ParameterSource& parameters,
             const TokenDataset& data) const noexcept;

 private:
  void write_bundle(const ReplayRecord& record, models::ParameterSource& parameters,
                    const TokenDataset& data) const;
  ManifestFile write_weights(const std::string& directory,
                             models::ParameterSource& parameters) const;
  ManifestFile write_batch(const std::string& directory, std::int64_t position,
                           const TokenDataset& data) const;
  void make_room() const;
  void retain(std::int64_t newest) const;

  const Config& config_;
  const models::ParameterTable& table_;
  ops::OpContext& context_;
  core::Logger& log_;
  std::string bundles_;  // OUTPUT/replay
};

}  // namespace lockstep::runtime
