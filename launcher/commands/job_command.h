#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/client/client.h"
#include "coordinator/client/documents.h"
#include "coordinator/client/endpoint.h"
#include "launcher/command_context.h"

// What the job-control commands share.
namespace lockstep::launcher {

enum class JobFormat { kTable, kJson, kJsonLines, kYaml, kName };

// The form of what is told to programs; none for tables and names.
std::optional<coordinator::DocumentForm> document_form(JobFormat format);

struct JobOptions {
  coordinator::EndpointOptions endpoint{};
  JobFormat format = JobFormat::kTable;
};

// --address, --token-file, --ca, --certificate, --key, --patience, -o and --jsonl.
void add_job_options(CLI::App& command, JobOptions& options);

// The positional RUN: its id, its name or the unique beginning of an id.
CLI::Option* add_run_argument(CLI::App& command, std::string& run);
CLI::Option* add_runs_argument(CLI::App& command, std::vector<std::string>& runs);

// --filter, for a command that acts on runs: those that match, in place of or beside the named ones.
struct RunSelection {
  std::vector<std::string> runs{};
  std::string filter{};
  bool dry_run = false;
};
// Which of those that match are meant.
enum class Selected { kLive, kEnded };
void add_selection(CLI::App& command, RunSelection& selection, Selected which = Selected::kLive);
// The names given, then the runs that match. Throws core::Error(kConfig) if neither is given.
std::vector<std::string> selected(coordinator::Client& client, const RunSelection& selection,
                                  Selected which = Selected::kLive);

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

// The run after a change: "runs/ID STATE (reason)", its name, or a document.
void print_run(CommandContext& context, JobFormat format, const coordinator::v1::Run& run);
// The same of several, one after the other.
class RunPrinter {
 public:
  RunPrinter(CommandContext& context, JobFormat format);
  void print(const coordinator::v1::Run& run);

 private:
  CommandContext& context_;
  const JobFormat format_;
  std::optional<coordinator::DocumentList> list_;
};

// True if the format is one for programs, and the message has been printed in it.
bool print_document(CommandContext& context, JobFormat format,
                    const google::protobuf::Message& message);

// "RUNNING", or the number of a state that this program does not know.
std::string state_word(const coordinator::v1::Run& run);

// Why its attempt is being stopped, "to pause"; empty if it is not, or has ended.
std::string intent_word(const coordinator::v1::Run& run);

// Lines of logs or of anything else that a run wrote are escaped when they go to a terminal.
bool escapes_output();

}  // namespace lockstep::launcher
