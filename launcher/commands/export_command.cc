#include "launcher/commands/export_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <memory>
#include <ostream>

#include "core/log.h"
#include "runtime/checkpoint/export_model.h"
#include "runtime/sampling/sampling.h"

namespace lockstep::launcher {
namespace {

struct ExportArguments {
  std::string checkpoint;
  std::string output;
  runtime::ExportOptions options;
};

int export_checkpoint(const ExportArguments& arguments, CommandContext& context) {
  core::Logger log(0, 1, core::LogLevel::kWarning);
  const runtime::CheckpointManifest manifest = runtime::find_checkpoint(arguments.checkpoint, log);
  const runtime::Config config = runtime::checkpoint_config(manifest);
  const runtime::ExportedModel exported =
      runtime::export_model(manifest, config, arguments.output, arguments.options);
  for (const std::string& remark : exported.remarks)
    context.err << "lockstep: " << remark << "\n";
  context.out << fmt::format("{}: {} of step {}: {}\n", arguments.output, exported.architecture,
                             manifest.state.step, fmt::join(exported.files, ", "));
  return 0;
}

}  // namespace

void add_export_command(CLI::App& app, CommandContext& context) {
  CLI::App* command =
      app.add_subcommand("export", "write a trained model as Hugging Face's Transformers loads it");
  auto arguments = std::make_shared<ExportArguments>();
  command
      ->add_option("--checkpoint", arguments->checkpoint,
                   "a checkpoint directory, or the output of a run: its newest whole checkpoint")
      ->required()
      ->option_text("PATH");
  command->add_option("--output", arguments->output, "a new or empty directory")
      ->required()
      ->option_text("DIR");
  add_weights_option(*command, arguments->options.weights);
  const std::map<std::string, core::DType> dtypes = {
      {"fp32", core::DType::kF32}, {"bf16", core::DType::kBF16}, {"fp16", core::DType::kF16}};
  command
      ->add_option("--dtype", arguments->options.dtype, "type of the stored weights (default fp32)")
      ->transform(CLI::CheckedTransformer(dtypes).description(""))
      ->option_text("fp32|bf16|fp16");
  command
      ->add_option("--max-shard-size", arguments->options.max_shard_bytes,
                   "largest file of weights, as 5GB or 500MiB (default 50GB)")
      ->transform(CLI::AsSizeValue(true).description(""))
      ->option_text("SIZE");
  set_action(*command, context,
             [arguments, &context] { return export_checkpoint(*arguments, context); });
}

}  // namespace lockstep::launcher
