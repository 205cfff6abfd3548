#pragma once

#include "comm/communicator.h"
#include "models/transformer.h"
#include "runtime/config/config.h"
#include "runtime/data/token_dataset.h"
#include "runtime/trainer/run_monitor.h"
#include "runtime/trainer/stop_points.h"

namespace lockstep::runtime {

// Mean plain cross-entropy (no dropout, no smoothing, no z-loss) over the first
// train.validate_batches global batches of the validation data (0: over all whole micro-batches of
// it), never more than the data holds. Micro-batches are dealt to ranks in turn and their sums are
// added exactly, so the result is the same on every rank and at every number of ranks. Collective.
// monitor: is told of every micro-batch; null: nobody is. Throws StopAgreed on all ranks when one is
// asked to stop meanwhile.
double validation_loss(const Config& config, const TokenDataset& data, models::Transformer& model,
                       StopPoints& parameters, comm::Communicator& communicator,
                       RunMonitor* monitor = nullptr);

}  // namespace lockstep::runtime
