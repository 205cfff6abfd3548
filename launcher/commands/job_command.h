#pragma once

#include <functional>
#include <memory>
#include <string>

#include "coordinator/client/client.h"
#include "coordinator/client/endpoint.h"
#include "launcher/command_context.h"

// What the job-control commands share.
namespace lockstep::launcher {

enum class JobFormat { kTable, kJson, kName };

struct JobOptions {
  coordinator::EndpointOptions endpoint{};
  JobFormat format = JobFormat::kTable;
};

// --address, --token-file, --ca, --certificate, --key, --patience and -o table|json|name.
void add_job_options(CLI::App& command, JobOptions& options);

// The positional RUN, its id or the unique beginning of one.
CLI::Option* add_run_argument(CLI::App& command, std::string& run);

using JobAction = std::function<coordinator::JobExit(coordinator::Client&)>;

// As set_action: connects, acts, and turns what the coordinator refuses into a message and an exit
// code (coordinator::JobExit).
void set_job_action(CLI::App& command, CommandContext& context, const JobOptions& options,
                    JobAction action);

// Runs `action` so that Ctrl-C leaves the run alone and says so.
coordinator::JobExit detachable(coordinator::Client& client, CommandContext& context,
                                const std::string& run,
                                const std::function<coordinator::JobExit()>& action);

// Follows the logs of a run until it has ended and returns its verdict; Ctrl-C detaches.
coordinator::JobExit follow_run(coordinator::Client& client, CommandContext& context,
                                const coordinator::v1::ReadLogsRequest& request, JobFormat format);

// One sentence on how the run ended, to `err`; its exit code.
coordinator::JobExit tell_verdict(CommandContext& context, const coordinator::v1::Run& run);

// The run after a change: "runs/ID STATE (reason)", proto JSON, or its name.
void print_run(CommandContext& context, JobFormat format, const coordinator::v1::Run& run);

// "RUNNING", or the number of a state that this program does not know.
std::string state_word(const coordinator::v1::Run& run);

// Why its attempt is being stopped, "to pause"; empty if it is not, or has ended.
std::string intent_word(const coordinator::v1::Run& run);

// Lines of logs or of anything else that a run wrote are escaped when they go to a terminal.
bool escapes_output();

}  // namespace lockstep::launcher
