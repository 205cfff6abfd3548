#include "launcher/commands/data_command.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/hash.h"
#include "launcher/commands/tokenizer_command.h"
#include "runtime/data/prepare.h"
#include "runtime/data/sources.h"
#include "runtime/data/token_file.h"

namespace lockstep::launcher {
namespace {

using nlohmann::ordered_json;

// Without the vocabulary.
ordered_json short_description(const std::string& tokenizer) {
  nlohmann::json object = nlohmann::json::parse(tokenizer);
  object.erase("tokenizer_json");
  return object;
}

struct PrepareArguments {
  std::vector<std::string> inputs;
  std::string output;
  std::string tokenizer = "bytes";
  double validation_fraction = 0.1;
  std::string text_field = "text";
  bool force = false;
  OutputFormat format = OutputFormat::kTable;
};

int prepare(const PrepareArguments& arguments, std::ostream& out) {
  runtime::PrepareOptions options;
  options.inputs.assign(arguments.inputs.begin(), arguments.inputs.end());
  options.output = arguments.output;
  options.tokenizer = arguments.tokenizer;
  options.validation_fraction = arguments.validation_fraction;
  options.text_field = arguments.text_field;
  options.overwrite = arguments.force ? runtime::Overwrite::kReplace : runtime::Overwrite::kRefuse;
  const runtime::PrepareResult result = runtime::prepare_data(options);
  if (arguments.format == OutputFormat::kJson) {
    ordered_json json = ordered_json::parse(runtime::to_json(result.meta));
    json["tokenizer"] = short_description(result.meta.tokenizer);
    json["output"] = arguments.output;
    json["unchanged"] = result.unchanged;
    out << json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << "\n";
    return 0;
  }
  out << fmt::format("{}: {} tokens to train on, {} to validate on, vocabulary {}, {}{}\n",
                     arguments.output, result.meta.train_tokens, result.meta.validation_tokens,
                     result.meta.vocab, runtime::token_type_name(result.meta.token_type),
                     result.unchanged ? " (already there, unchanged)" : "");
  return 0;
}

void add_prepare(CLI::App& data, CommandContext& context) {
  CLI::App* command = data.add_subcommand("prepare", "turn text into a directory of token files");
  auto arguments = std::make_shared<PrepareArguments>();
  command
      ->add_option("--input", arguments->inputs,
                   "text files, .jsonl files of documents, or folders of them")
      ->required()
      ->option_text("PATH...");
  command->add_option("--output", arguments->output, "directory to make")
      ->required()
      ->option_text("DIR");
  command
      ->add_option(
          "--tokenizer", arguments->tokenizer,
          "how text becomes tokens: bytes (default) or bpe:PATH, a tokenizer.json or its directory")
      ->option_text("KIND");
  command
      ->add_option("--validation-fraction", arguments->validation_fraction,
                   "the last part of the text, or this share of documents, kept for validation "
                   "(default 0.1)")
      ->option_text("F");
  command
      ->add_option("--text-field", arguments->text_field,
                   "of the objects in .jsonl files, one document a line (default text)")
      ->option_text("NAME");
  command->add_flag("--force", arguments->force, "replace a prepared directory that differs");
  add_output_option(*command, arguments->format);
  set_action(*command, context, [arguments, &context] { return prepare(*arguments, context.out); });
}

struct InfoArguments {
  std::vector<std::string> paths;
  core::DType token_type = core::DType::kU16;
  std::uint64_t context = 0;  // 0: not given
  OutputFormat format = OutputFormat::kTable;
};

ordered_json describe(const runtime::TokenFile& file, std::uint64_t context) {
  const runtime::TokenFile::IdRange ids = file.id_range();
  const runtime::DataFingerprint fingerprint = file.fingerprint();
  ordered_json json = {{"path", file.path().string()},
                       {"format", runtime::name_of(file.format())},
                       {"token_type", runtime::token_type_name(file.token_type())},
                       {"tokens", file.tokens()},
                       {"smallest_id", ids.smallest},
                       {"largest_id", ids.largest}};
  if (ids.targets != file.tokens()) json["targets"] = ids.targets;
  if (context > 0) {
    json["context"] = context;
    json["sequences"] = (file.tokens() - 1) / context;
  }
  json["bytes"] = fingerprint.bytes;
  json["fingerprint"] = core::to_hex(fingerprint.hash);
  if (file.tokenizer_vocab()) {
    json["vocab"] = *file.tokenizer_vocab();
    json["tokenizer"] = short_description(file.tokenizer());
  }
  return json;
}

// Both halves of a prepared directory; a plain file as it is.
std::vector<runtime::TokenFile> open_halves(const std::filesystem::path& path,
                                            core::DType token_type) {
  std::vector<runtime::TokenFile> files;
  files.emplace_back(path, token_type, runtime::DataSplit::kTrain);
  if (files.front().format() == runtime::TokenFormat::kPrepared &&
      runtime::read_prepared_meta(path).validation_tokens > 0)
    files.emplace_back(path, token_type, runtime::DataSplit::kValidation);
  return files;
}

int info(const InfoArguments& arguments, std::ostream& out) {
  ordered_json list = ordered_json::array();
  for (const std::filesystem::path& path : runtime::expand_sources(arguments.paths))
    for (const runtime::TokenFile& file : open_halves(path, arguments.token_type))
      list.push_back(describe(file, arguments.context));
  if (arguments.format == OutputFormat::kJson) {
    out << ordered_json{{"files", list}}.dump(-1, ' ', false,
                                              ordered_json::error_handler_t::replace)
        << "\n";
    return 0;
  }
  for (const ordered_json& file : list) {
    for (const auto& [key, value] : file.items())
      out << fmt::format("{:<12} {}\n", key,
                         value.is_string() ? value.get<std::string>() : value.dump());
    if (&file != &list.back()) out << "\n";
  }
  return 0;
}

void add_info(CLI::App& data, CommandContext& context) {
  CLI::App* command = data.add_subcommand("info", "tell what token files hold");
  auto arguments = std::make_shared<InfoArguments>();
  command->add_option("path", arguments->paths, "token files, prepared directories or patterns")
      ->required()
      ->option_text("PATH...");
  const std::map<std::string, core::DType> types = {{"uint16", core::DType::kU16},
                                                    {"uint32", core::DType::kU32}};
  command
      ->add_option("--token-type", arguments->token_type,
                   "of raw files: uint16 (default) or uint32")
      ->transform(CLI::CheckedTransformer(types).description(""))
      ->option_text("TYPE");
  command->add_option("--context", arguments->context, "count sequences of this many tokens")
      ->check(CLI::Range(1, 1 << 30).description(""))
      ->option_text("T");
  add_output_option(*command, arguments->format);
  set_action(*command, context, [arguments, &context] { return info(*arguments, context.out); });
}

}  // namespace

void add_data_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("data", "turn text into tokens, look into token files");
  command->require_subcommand(1);
  add_prepare(*command, context);
  add_info(*command, context);
  add_tokenizer_commands(*command, context);
}

}  // namespace lockstep::launcher
