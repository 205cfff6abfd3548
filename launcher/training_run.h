#pragma once

#include <string>
#include <vector>

namespace lockstep::launcher {

// What `lockstep train` was asked for.
struct TrainRequest {
  std::string config_file;
  std::vector<std::string> overrides;  // --set
  std::string resume = "never";        // never, auto, or a checkpoint directory
  bool ranks_given = false;            // --ranks: wrong in a rank that a launcher started
};

// Throws the Error(kConfig) that `ranks` ranks would all find in the configuration. Returns the
// run's OUTPUT.
std::string check_training_request(const TrainRequest& request, int ranks);

// Trains as this process's rank: one of those that an MPI launcher started, or the only one.
// Returns the exit code; errors that all ranks agree on are told by rank 0 alone, others by the
// rank they happened on, which then ends the whole job.
int run_training(const TrainRequest& request);

}  // namespace lockstep::launcher
