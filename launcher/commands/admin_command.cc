#include "launcher/commands/admin_command.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <ostream>

#include "coordinator/client/text.h"
#include "launcher/commands/job_command.h"

namespace lockstep::launcher {

namespace job = coordinator;
namespace v1 = job::v1;
using job::JobExit;

namespace {

constexpr int kPage = 500;

struct TokenOptions : JobOptions {
  std::string name{};
  std::vector<std::string> scopes{};
  std::string lifetime{};
};

struct AuditOptions : JobOptions {
  std::int64_t after = 0;
  int limit = 100;
};

struct AttemptOptions : JobOptions {
  std::string run{};
  bool force = false;
};

struct BackupOptions : JobOptions {
  std::string path{};
};

template <typename Options>
using Action = JobExit (*)(const Options&, job::Client&, CommandContext&);

template <typename Options>
CLI::App* add(CLI::App& parent, CommandContext& context, const char* name, const char* help,
              const std::shared_ptr<Options>& options, Action<Options> action) {
  CLI::App* command = parent.add_subcommand(name, help);
  add_job_options(*command, *options);
  set_job_action(*command, context, *options, [options, action, &context](job::Client& client) {
    return action(*options, client, context);
  });
  return command;
}

// True if the answer has been printed.
bool print_json(CommandContext& context, const JobOptions& options,
                const google::protobuf::Message& answer) {
  return print_document(context, options.format, answer);
}

JobExit info(const JobOptions& options, job::Client& client, CommandContext& context) {
  const v1::ServerInfo answer = client.server_info();
  if (print_json(context, options, answer)) return JobExit::kOk;
  const auto line = [&](const std::string& name, const std::string& value) {
    if (!value.empty()) {
      context.out << fmt::format("{:<24}{}\n", name, job::escape_for_terminal(value));
    }
  };
  line("version", answer.version());
  line("api", fmt::format("{}", fmt::join(answer.api_versions(), ", ")));
  line("schema", std::to_string(answer.schema_version()));
  line("address", answer.address());
  line("state directory", answer.state_directory());
  line("started", job::format_time(answer.start_time()));
  line("you are", answer.caller());
  line("you may", fmt::format("{}", fmt::join(answer.caller_scopes(), ", ")));
  for (const std::string& unknown : answer.unknown_attempts())
    line("not in the store", unknown);
  for (const auto& [name, value] : std::map(answer.limits().begin(), answer.limits().end()))
    line(name, std::to_string(value));
  return JobExit::kOk;
}

void print_tokens(CommandContext& context, const google::protobuf::RepeatedPtrField<v1::Token>& all,
                  JobFormat format) {
  if (const auto form = document_form(format)) {
    job::DocumentList list(context.out, *form);
    for (const v1::Token& token : all)
      list.add(token);
    return;
  }
  job::Table table({"TOKEN", "SCOPES", "MADE", "EXPIRES", "REVOKED"});
  for (const v1::Token& token : all) {
    if (format == JobFormat::kName) context.out << token.name() << "\n";
    table.add({token.name(), fmt::format("{}", fmt::join(token.scopes(), ", ")),
               job::format_time(token.create_time()), job::format_time(token.expire_time()),
               token.revoked() ? "yes" : "no"});
  }
  if (format == JobFormat::kTable) table.print(context.out, job::terminal_width());
}

JobExit create_token(const TokenOptions& options, job::Client& client, CommandContext& context) {
  v1::CreateTokenRequest request;
  request.set_name(options.name);
  request.mutable_scopes()->Add(options.scopes.begin(), options.scopes.end());
  if (!options.lifetime.empty()) {
    *request.mutable_lifetime() = job::parse_duration(options.lifetime);
  }
  const v1::CreateTokenResponse answer = client.create_token(request);
  if (print_json(context, options, answer)) return JobExit::kOk;
  context.err << fmt::format(
      "lockstep: the token {}, shown this once; put it into a file that only you can read, and "
      "name "
      "that with --token-file or LOCKSTEP_TOKEN_FILE\n",
      answer.token().name());
  context.out << answer.secret() << std::endl;
  return JobExit::kOk;
}

JobExit list_tokens(const JobOptions& options, job::Client& client, CommandContext& context) {
  const v1::ListTokensResponse answer = client.list_tokens();
  print_tokens(context, answer.tokens(), options.format);
  return JobExit::kOk;
}

JobExit revoke_token(const TokenOptions& options, job::Client& client, CommandContext& context) {
  v1::RevokeTokenRequest request;
  request.set_name(options.name);
  const v1::Token answer = client.revoke_token(request);
  if (print_json(context, options, answer)) return JobExit::kOk;
  google::protobuf::RepeatedPtrField<v1::Token> tokens;
  *tokens.Add() = answer;
  print_tokens(context, tokens, options.format);
  return JobExit::kOk;
}

JobExit audit(const AuditOptions& options, job::Client& client, CommandContext& context) {
  v1::ListAuditEventsRequest request;
  request.set_after_sequence(options.after);
  job::Table table({"NUMBER", "TIME", "WHO", "FROM", "METHOD", "OF", "RESULT"});
  std::optional<job::DocumentList> documents;
  if (const auto form = document_form(options.format)) documents.emplace(context.out, *form);
  for (int left = options.limit; left > 0;) {
    request.set_page_size(std::min(left, kPage));
    const v1::ListAuditEventsResponse page = client.list_audit_events(request);
    for (const v1::AuditEvent& event : page.events()) {
      request.set_after_sequence(event.sequence());
      if (documents) {
        documents->add(event);
      } else if (options.format == JobFormat::kName) {
        context.out << event.sequence() << "\n";
      } else {
        table.add({std::to_string(event.sequence()), job::format_time(event.time()), event.actor(),
                   event.peer(), event.method(), event.resource(), event.result()});
      }
    }
    if (page.events().empty()) break;
    left -= page.events_size();
  }
  if (options.format == JobFormat::kTable) table.print(context.out, job::terminal_width());
  return JobExit::kOk;
}

JobExit backup(const BackupOptions& options, job::Client& client, CommandContext& context) {
  v1::BackupStoreRequest request;
  request.set_path(std::filesystem::absolute(options.path).lexically_normal());
  const v1::BackupStoreResponse answer = client.backup_store(request);
  if (print_json(context, options, answer)) return JobExit::kOk;
  context.out << fmt::format("{}: {} bytes\n", job::escape_for_terminal(request.path()),
                             answer.bytes());
  return JobExit::kOk;
}

JobExit check(const JobOptions& options, job::Client& client, CommandContext& context) {
  const v1::CheckStoreResponse answer = client.check_store();
  if (!print_json(context, options, answer)) {
    for (const std::string& problem : answer.problems())
      context.out << job::escape_for_terminal(problem) << "\n";
    context.out << fmt::format("{}: {} runs, {} events, {} audit records\n",
                               answer.ok() ? "ok" : "NOT OK", answer.runs(), answer.events(),
                               answer.audit_events());
  }
  return answer.ok() ? JobExit::kOk : JobExit::kConflict;
}

JobExit adopt(const AttemptOptions& options, job::Client& client, CommandContext& context) {
  v1::AdoptAttemptRequest request;
  request.set_name(options.run);
  print_run(context, options.format, client.adopt_attempt(request));
  return JobExit::kOk;
}

JobExit end(const AttemptOptions& options, job::Client& client, CommandContext& context) {
  v1::EndAttemptRequest request;
  request.set_name(options.run);
  request.set_force(options.force);
  client.end_attempt(request);
  context.err << "lockstep: the attempt is being ended; its files are put aside then" << std::endl;
  return JobExit::kOk;
}

JobExit shut_down(const JobOptions&, job::Client& client, CommandContext& context) {
  client.shutdown_server();
  context.err << "lockstep: the coordinator shuts down; runs go on, and the next one finds them\n";
  return JobExit::kOk;
}

void add_token(CLI::App& admin, CommandContext& context) {
  CLI::App* token = admin.add_subcommand("token", "make, list and revoke tokens");
  token->require_subcommand(1);
  auto made = std::make_shared<TokenOptions>();
  CLI::App* create =
      add(*token, context, "create", "make a token; its secret is shown once", made, create_token);
  create->add_option("name", made->name, "lower case letters, digits and -")
      ->required()
      ->option_text("NAME");
  create->add_option("--scope", made->scopes, "read, submit, operate or admin (repeatable)")
      ->allow_extra_args(false)
      ->required()
      ->check(CLI::IsMember({"read", "submit", "operate", "admin"}).description(""))
      ->option_text("SCOPE");
  create->add_option("--lifetime", made->lifetime, "such as 12h or 30d; default: for ever")
      ->check(not_empty())
      ->option_text("TIME");
  add(*token, context, "list", "list tokens, without their secrets", std::make_shared<JobOptions>(),
      list_tokens);
  auto revoked = std::make_shared<TokenOptions>();
  add(*token, context, "revoke", "make a token worthless at once", revoked, revoke_token)
      ->add_option("name", revoked->name, "of the token")
      ->required()
      ->option_text("NAME");
}

void add_audit(CLI::App& admin, CommandContext& context) {
  auto options = std::make_shared<AuditOptions>();
  CLI::App* command =
      add(admin, context, "audit", "who changed what, oldest first", options, audit);
  command->add_option("--after", options->after, "only records behind this number")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 60).description(""))
      ->option_text("N");
  command->add_option("--limit", options->limit, "at most so many")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->option_text("N")
      ->capture_default_str();
}

}  // namespace

void add_admin_command(CLI::App& app, CommandContext& context) {
  CLI::App* admin = app.add_subcommand("admin", "look after the coordinator");
  admin->require_subcommand(1);
  add(*admin, context, "info", "what the coordinator is, and who you are to it",
      std::make_shared<JobOptions>(), info);
  add_token(*admin, context);
  add_audit(*admin, context);
  auto saved = std::make_shared<BackupOptions>();
  add(*admin, context, "backup", "copy the store while it is in use", saved, backup)
      ->add_option("path", saved->path, "a new file, on the coordinator's machine")
      ->required()
      ->option_text("FILE");
  add(*admin, context, "check", "replay every run against its row, and check the audit chain",
      std::make_shared<JobOptions>(), check);
  auto adopted = std::make_shared<AttemptOptions>();
  add_run_argument(
      *add(*admin, context, "adopt",
           "take up a run of which the store knows nothing, from its files", adopted, adopt),
      adopted->run);
  auto ended = std::make_shared<AttemptOptions>();
  CLI::App* ending =
      add(*admin, context, "end",
          "end an attempt of which the store knows nothing: a checkpoint first, then "
          "no process of it is left",
          ended, end);
  add_run_argument(*ending, ended->run);
  ending->add_flag("--force", ended->force, "kill at once, without a checkpoint");
  add(*admin, context, "shutdown", "end the coordinator; training goes on",
      std::make_shared<JobOptions>(), shut_down);
}

}  // namespace lockstep::launcher
