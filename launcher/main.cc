#include <iostream>

#include "core/signals.h"
#include "launcher/command_line.h"
#include "launcher/commands/admin_command.h"
#include "launcher/commands/audit_command.h"
#include "launcher/commands/bench_command.h"
#include "launcher/commands/cancel_command.h"
#include "launcher/commands/checkpoint_command.h"
#include "launcher/commands/compare_command.h"
#include "launcher/commands/completion_command.h"
#include "launcher/commands/config_command.h"
#include "launcher/commands/coordinator_command.h"
#include "launcher/commands/data_command.h"
#include "launcher/commands/doctor_command.h"
#include "launcher/commands/eval_command.h"
#include "launcher/commands/explain_command.h"
#include "launcher/commands/explain_step_command.h"
#include "launcher/commands/export_command.h"
#include "launcher/commands/flight_command.h"
#include "launcher/commands/hosts_command.h"
#include "launcher/commands/import_command.h"
#include "launcher/commands/logs_command.h"
#include "launcher/commands/metrics_command.h"
#include "launcher/commands/pause_command.h"
#include "launcher/commands/plan_command.h"
#include "launcher/commands/replay_command.h"
#include "launcher/commands/report_command.h"
#include "launcher/commands/resume_command.h"
#include "launcher/commands/retry_command.h"
#include "launcher/commands/runs_command.h"
#include "launcher/commands/sample_command.h"
#include "launcher/commands/submit_command.h"
#include "launcher/commands/supervise_command.h"
#include "launcher/commands/top_command.h"
#include "launcher/commands/train_command.h"
#include "launcher/commands/version_command.h"
#include "launcher/commands/wait_command.h"
#include "launcher/commands/watch_command.h"

namespace {

// Before any library, preloaded ones too, can start a thread.
using Initializer = void (*)(int, char**, char**);
[[gnu::section(".preinit_array"), gnu::used, gnu::retain]] const Initializer hold_signals_first =
    [](int, char**, char**) { lockstep::core::hold_signals(); };

}  // namespace

int main(int argc, char** argv) {
  using namespace lockstep::launcher;
  CommandLine command_line(argc, argv, std::cout, std::cerr);
  CLI::App& app = command_line.app();
  CommandContext& context = command_line.context();
  add_admin_command(app, context);
  add_audit_command(app, context);
  add_bench_command(app, context);
  add_cancel_command(app, context);
  add_checkpoint_command(app, context);
  add_compare_command(app, context);
  add_completion_command(app, context);
  add_config_command(app, context);
  add_coordinator_command(app, context);
  add_data_command(app, context);
  add_doctor_command(app, context);
  add_explain_command(app, context);
  add_explain_step_command(app, context);
  add_export_command(app, context);
  add_flight_command(app, context);
  add_hosts_command(app, context);
  add_import_command(app, context);
  add_logs_command(app, context);
  add_metrics_command(app, context);
  add_pause_command(app, context);
  add_plan_command(app, context);
  add_replay_command(app, context);
  add_report_command(app, context);
  add_resume_command(app, context);
  add_retry_command(app, context);
  add_runs_command(app, context);
  add_sample_command(app, context);
  add_eval_command(app, context);
  add_submit_command(app, context);
  add_supervise_command(app, context);
  add_top_command(app, context);
  add_train_command(app, context);
  add_version_command(app, context);
  add_wait_command(app, context);
  add_watch_command(app, context);
  return command_line.run();
}
