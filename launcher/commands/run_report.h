#pragma once

#include <iosfwd>

#include "coordinator/client/client.h"
#include "launcher/command_context.h"

// How job-control commands show what they got.
namespace lockstep::launcher {

// A line a run.
void print_run_table(std::ostream& out, const coordinator::v1::ListRunsResponse& runs);

// Everything that is set, a line each, and the attempts.
void print_run_details(std::ostream& out, const coordinator::v1::Run& run,
                       const coordinator::v1::ListAttemptsResponse& attempts);

// "RANK_SIGNAL: rank 1 on local: ended by signal 9", or "" when nothing is known.
std::string exit_text(const coordinator::v1::ExitInfo& exit);

// "local: 0, 1; node2: 3"
std::string placements_text(
    const google::protobuf::RepeatedPtrField<coordinator::v1::Placement>& placements);

}  // namespace lockstep::launcher
