#include "launcher/commands/eval_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "core/error.h"
#include "launcher/run_description.h"
#include "runtime/sampling/evaluate.h"
#include "runtime/sampling/sampling.h"

namespace lockstep::launcher {
namespace {

using nlohmann::ordered_json;

struct EvalArguments {
  std::string checkpoint;
  std::string data;
  std::string kind = "text";
  std::string text_field = "text";
  runtime::WeightsChoice weights = runtime::WeightsChoice::kModel;
  OutputFormat format = OutputFormat::kTable;
};

ordered_json evaluate_text(const EvalArguments& arguments, runtime::Sampler& sampler) {
  const runtime::Tokenizer& tokenizer = *sampler.tokenizer();
  const auto documents = runtime::read_documents(arguments.data, tokenizer, arguments.text_field);
  const runtime::TextScore score = runtime::score_documents(sampler, tokenizer, documents);
  return {{"kind", "text"},
          {"loss", score.loss},
          {"perplexity", score.perplexity},
          {"bits_per_byte", score.bits_per_byte},
          {"tokens", score.tokens},
          {"bytes", score.bytes}};
}

ordered_json evaluate_choices(const EvalArguments& arguments, runtime::Sampler& sampler) {
  const auto examples = runtime::read_multiple_choice(arguments.data);
  const runtime::MultipleChoiceScore score =
      runtime::score_choices(sampler, *sampler.tokenizer(), examples);
  return {{"kind", "multiple_choice"},
          {"accuracy", score.accuracy},
          {"accuracy_normalised", score.accuracy_normalised},
          {"accuracy_bytes", score.accuracy_bytes},
          {"examples", score.examples}};
}

int evaluate(const EvalArguments& arguments, CommandContext& context) {
  core::Logger log(0, 1, core::LogLevel::kWarning);
  core::MemoryTracker memory;
  const runtime::CheckpointManifest manifest = runtime::find_checkpoint(arguments.checkpoint, log);
  const runtime::Config config = runtime::checkpoint_config(manifest);
  runtime::Sampler sampler(manifest, config, threads_of_rank(config, 1), memory, arguments.weights);
  if (sampler.tokenizer() == nullptr)
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: expected a tokenizer in manifest.json, found none: the run "
                                  "was trained on bare token ids; train on a directory made by "
                                  "`lockstep data prepare`",
                                  arguments.checkpoint));
  const ordered_json result = arguments.kind == "text" ? evaluate_text(arguments, sampler)
                                                       : evaluate_choices(arguments, sampler);
  if (arguments.format == OutputFormat::kJson) {
    context.out << result.dump() << "\n";
    return 0;
  }
  for (const auto& [key, value] : result.items())
    context.out << fmt::format("{:<20} {}\n", key,
                               value.is_string() ? value.get<std::string>() : value.dump());
  return 0;
}

}  // namespace

void add_eval_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("eval", "measure a trained model on text or questions");
  auto arguments = std::make_shared<EvalArguments>();
  command
      ->add_option("--checkpoint", arguments->checkpoint,
                   "a checkpoint directory, or the output of a run: its newest whole checkpoint")
      ->required()
      ->option_text("PATH");
  command
      ->add_option("--data", arguments->data,
                   "text: a file, a folder, a .jsonl file or a prepared directory; "
                   "multiple_choice: a .jsonl file of context, choices, label")
      ->required()
      ->option_text("PATH");
  command->add_option("--kind", arguments->kind, "text (default) or multiple_choice")
      ->check(CLI::IsMember({"text", "multiple_choice"}).description(""))
      ->option_text("KIND");
  command
      ->add_option("--text-field", arguments->text_field,
                   "of the objects of a .jsonl file (default text)")
      ->option_text("NAME");
  add_weights_option(*command, arguments->weights);
  add_output_option(*command, arguments->format);
  set_action(*command, context, [arguments, &context] { return evaluate(*arguments, context); });
}

}  // namespace lockstep::launcher
