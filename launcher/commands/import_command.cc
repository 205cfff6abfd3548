#include "launcher/commands/import_command.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <ostream>

#include "core/error.h"
#include "runtime/checkpoint/export_model.h"
#include "runtime/checkpoint/huggingface_weights.h"
#include "runtime/files/write_file.h"
#include "runtime/interchange/import_config.h"

namespace lockstep::launcher {
namespace {

namespace fs = std::filesystem;

struct ImportArguments {
  std::string directory;
  std::string output;
};

int import_model(const ImportArguments& arguments, CommandContext& context) {
  const fs::path directory = fs::absolute(arguments.directory).lexically_normal();
  const runtime::ForeignModel foreign =
      runtime::read_foreign_model(directory / runtime::kForeignConfigFile);
  const std::string text = runtime::import_config(foreign, directory);
  const models::ParameterTable table(foreign.model);
  const auto files = runtime::open_weights(directory);
  const runtime::LoadedWeights matched = runtime::match_parameters(files, table, foreign.model);
  std::error_code error;
  if (fs::exists(arguments.output, error))
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{}: exists; name another file", arguments.output));
  runtime::write_synced(arguments.output, text);
  context.out << fmt::format("{}: {} as family {}, {} parameters in {} files\n", arguments.output,
                             foreign.model_type,
                             foreign.model.family == models::Family::kGpt    ? "gpt"
                             : foreign.model.family == models::Family::kBert ? "bert"
                                                                             : "llama",
                             table.size(), files.size());
  for (const std::string& tensor : matched.passed_over)
    context.err << fmt::format("lockstep: left, since the model has no use for it: {}\n", tensor);
  return 0;
}

}  // namespace

void add_import_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "import", "write a configuration that trains on from a model of Hugging Face's Transformers");
  auto arguments = std::make_shared<ImportArguments>();
  command->add_option("directory", arguments->directory, "with config.json and safetensors weights")
      ->required()
      ->option_text("DIR");
  command->add_option("--output", arguments->output, "the file to write; it must not exist")
      ->required()
      ->option_text("CONFIG");
  set_action(*command, context,
             [arguments, &context] { return import_model(*arguments, context); });
}

}  // namespace lockstep::launcher
