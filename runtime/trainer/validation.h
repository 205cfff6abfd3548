#pragma once

#include "comm/communicator.h"
#include "models/transformer.h"
#include "runtime/config/config.h"
#include "runtime/data/token_dataset.h"
#include "runtime/trainer/run_monitor.h"
#include "runtime/trainer/stop_points.h"

namespace lockstep::runtime {

// Sequences [first, first + count) as a dataset deals them.
struct SequenceRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

// What a validation covers: the first train.validate_batches global batches of the data (0: all of
// it), never more than the data holds, each sequence once.
SequenceRange validation_range(const Config& config, const TokenDataset& data);

// Mean plain cross-entropy (no dropout, no smoothing, no z-loss) over a range. Sequences are dealt
// to ranks in turn, batch.micro at a time, and their sums are added exactly, so the result is the
// same on every rank and at every number of ranks; under run.reproducible: ranks, where each is
// computed by itself, at every batch.micro too. Collective. monitor: hears of every pass, unless it
// is null. Throws StopAgreed on all ranks when one is asked to stop meanwhile.
double mean_loss(const Config& config, const TokenDataset& data, SequenceRange range,
                 models::Transformer& model, StopPoints& parameters,
                 comm::Communicator& communicator, RunMonitor* monitor = nullptr);

}  // namespace lockstep::runtime
