#include "launcher/commands/hosts_command.h"

#include <fmt/format.h>

#include <memory>
#include <ostream>
#include <set>

#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

struct HostOptions : JobOptions {
  std::string host{};
  std::string reason{};
  bool stop_runs = false;
};

void print_hosts(CommandContext& context, JobFormat format,
                 const google::protobuf::RepeatedPtrField<v1::Host>& hosts) {
  if (const auto form = document_form(format)) {
    job::DocumentList list(context.out, *form);
    for (const v1::Host& host : hosts)
      list.add(host);
    return;
  }
  job::Table table({"HOST", "ADDRESS", "KIND", "SLOTS", "FREE", "DRAINED", "RUNS"});
  for (const v1::Host& host : hosts) {
    if (format == JobFormat::kName) context.out << host.name() << "\n";
    int open = 0;
    std::set<std::string> runs;
    for (const v1::Slot& slot : host.slots()) {
      open += slot.run().empty() ? 1 : 0;
      if (!slot.run().empty()) runs.insert(slot.run());
    }
    const std::string drained = !host.drained()               ? "no"
                                : host.drain_reason().empty() ? "yes"
                                                              : "yes: " + host.drain_reason();
    table.add({host.name(), host.address(), host.kind(), std::to_string(host.slots_size()),
               std::to_string(open), drained, fmt::format("{}", fmt::join(runs, ", "))});
  }
  if (format == JobFormat::kTable) table.print(context.out, job::terminal_width());
}

void print_host(CommandContext& context, JobFormat format, const v1::Host& host) {
  if (print_document(context, format, host)) return;
  google::protobuf::RepeatedPtrField<v1::Host> hosts;
  *hosts.Add() = host;
  print_hosts(context, format, hosts);
}

void add_list(CLI::App& hosts, CommandContext& context) {
  CLI::App* command = hosts.add_subcommand("list", "list hosts and who uses their slots");
  auto options = std::make_shared<JobOptions>();
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    print_hosts(context, options->format, client.list_hosts().hosts());
    return JobExit::kOk;
  });
}

void add_drain(CLI::App& hosts, CommandContext& context) {
  CLI::App* command = hosts.add_subcommand("drain", "start nothing new on a host");
  auto options = std::make_shared<HostOptions>();
  command->add_option("host", options->host, "its name")->required()->option_text("HOST");
  command->add_option("--reason", options->reason, "shown to who waits for it")
      ->option_text("TEXT");
  command->add_flag("--stop-runs", options->stop_runs,
                    "save and stop what runs there, and queue it again");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    v1::DrainHostRequest request;
    request.set_host(options->host);
    request.set_reason(options->reason);
    request.set_stop_runs(options->stop_runs);
    print_host(context, options->format, client.drain_host(request));
    return JobExit::kOk;
  });
}

void add_undrain(CLI::App& hosts, CommandContext& context) {
  CLI::App* command = hosts.add_subcommand("undrain", "use a drained host again");
  auto options = std::make_shared<HostOptions>();
  command->add_option("host", options->host, "its name")->required()->option_text("HOST");
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, &context](job::Client& client) {
    v1::UndrainHostRequest request;
    request.set_host(options->host);
    print_host(context, options->format, client.undrain_host(request));
    return JobExit::kOk;
  });
}

}  // namespace

void add_hosts_command(CLI::App& app, CommandContext& context) {
  CLI::App* hosts = app.add_subcommand("hosts", "list, drain and undrain hosts");
  hosts->require_subcommand(1);
  add_list(*hosts, context);
  add_drain(*hosts, context);
  add_undrain(*hosts, context);
}

}  // namespace lockstep::launcher
