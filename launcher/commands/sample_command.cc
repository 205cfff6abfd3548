#include "launcher/commands/sample_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ostream>
#include <system_error>

#include "core/error.h"
#include "launcher/run_description.h"
#include "launcher/utf8_stream.h"
#include "runtime/sampling/sampling.h"

namespace lockstep::launcher {
namespace {

struct SampleArguments {
  std::string checkpoint;
  std::vector<std::string> prompts;
  std::string ids_text;
  std::vector<std::int32_t> prompt_ids;  // by_ids
  bool by_ids = false;
  runtime::WeightsChoice weights = runtime::WeightsChoice::kModel;
  bool ignore_end = false;
  runtime::SampleOptions options;
};

std::vector<std::int32_t> parse_ids(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    std::int32_t id = -1;
    const auto [stop, failure] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (failure != std::errc() || stop != word.data() + word.size() || id < 0) {
      throw core::Error(core::ErrorKind::kConfig,
                        fmt::format("--prompt-ids: expected token ids as in 1,2,3, found '{}' as "
                                    "number {}",
                                    word, ids.size() + 1));
    }
    ids.push_back(id);
    begin = end + 1;
  }
  return ids;
}

void tell_what_is_seen(std::size_t prompt, std::int64_t context, std::ostream& err) {
  if (prompt <= static_cast<std::size_t>(context)) return;
  err << fmt::format(
      "lockstep: the prompt has {} tokens; the model sees the last {}, of a context of {}\n",
      prompt, prompt - runtime::window_begin(prompt, static_cast<std::size_t>(context)), context);
}

const runtime::Tokenizer& tokenizer_of(const SampleArguments& arguments,
                                       const runtime::Sampler& sampler) {
  if (sampler.tokenizer() != nullptr) return *sampler.tokenizer();
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("{}: expected a tokenizer in manifest.json, found none: the run "
                                "was trained on bare token ids; give --prompt-ids instead of "
                                "--prompt, or train on a directory made by `lockstep data "
                                "prepare`",
                                arguments.checkpoint));
}

// Whether the token ends the text.
bool ends(const SampleArguments& arguments, const runtime::Tokenizer* tokenizer, std::int32_t id) {
  return !arguments.ignore_end && tokenizer != nullptr && tokenizer->end_of_text() == id;
}

void print_text(const SampleArguments& arguments, const std::string& prompt,
                runtime::Sampler& sampler, CommandContext& context) {
  const runtime::Tokenizer& tokenizer = tokenizer_of(arguments, sampler);
  std::vector<std::int32_t> ids = tokenizer.beginning();
  const std::vector<std::int32_t> inner = tokenizer.encode_special(prompt);
  ids.insert(ids.end(), inner.begin(), inner.end());
  tell_what_is_seen(ids.size(), sampler.context(), context.err);
  Utf8Stream text;
  bool begun = false;  // what is refused leaves nothing on stdout
  const auto print = [&](std::int32_t id) {
    if (!begun) context.out << text.push(prompt);
    begun = true;
    if (ends(arguments, &tokenizer, id)) return false;
    context.out << text.push(tokenizer.decode({&id, 1})) << std::flush;
    return static_cast<bool>(context.out);
  };
  sampler.generate(ids, arguments.options, print);
  context.out << text.finish() << "\n";
}

void print_ids(const SampleArguments& arguments, runtime::Sampler& sampler,
               CommandContext& context) {
  tell_what_is_seen(arguments.prompt_ids.size(), sampler.context(), context.err);
  bool begun = false;
  const auto print = [&](std::int32_t id) {
    if (!begun) context.out << fmt::format("{}", fmt::join(arguments.prompt_ids, ","));
    begun = true;
    context.out << "," << id << std::flush;
    return !ends(arguments, sampler.tokenizer(), id) && static_cast<bool>(context.out);
  };
  sampler.generate(arguments.prompt_ids, arguments.options, print);
  context.out << "\n";
}

int sample(const SampleArguments& arguments, CommandContext& context) {
  core::Logger log(0, 1, core::LogLevel::kWarning);
  core::MemoryTracker memory;
  const runtime::CheckpointManifest manifest = runtime::find_checkpoint(arguments.checkpoint, log);
  const runtime::Config config = runtime::checkpoint_config(manifest);
  runtime::Sampler sampler(manifest, config, threads_of_rank(config, 1), memory, arguments.weights);
  if (arguments.by_ids) {
    print_ids(arguments, sampler, context);
  } else {
    for (const std::string& prompt : arguments.prompts) {
      if (&prompt != &arguments.prompts.front()) context.out << "---\n";
      print_text(arguments, prompt, sampler, context);
    }
  }
  return 0;
}

// A range alone would let NaN through.
std::string is_temperature(const std::string& text) {
  double value = -1.0;
  if (CLI::detail::lexical_cast(text, value) && value >= 0.0 && std::isfinite(value)) return "";
  return "expected a number from 0 up, found " + text;
}

std::string is_share(const std::string& text) {
  double value = -1.0;
  if (CLI::detail::lexical_cast(text, value) && value > 0.0 && value <= 1.0) return "";
  return "expected a number above 0, at most 1, found " + text;
}

void add_choices(CLI::App& command, runtime::SampleOptions& options) {
  command.add_option("--tokens", options.tokens, "how many tokens to add (default 256)")
      ->check(CLI::Range(std::int64_t{1}, std::numeric_limits<std::int64_t>::max()).description(""))
      ->option_text("N");
  command
      .add_option("--temperature", options.temperature,
                  "below 1 the likely tokens become likelier; 0: always the most likely one "
                  "(default 1)")
      ->check(is_temperature)
      ->option_text("T");
  command
      .add_option("--top-k", options.top_k,
                  "choose among the K most likely tokens; 0: among all (default)")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()).description(""))
      ->option_text("K");
  command
      .add_option("--top-p", options.top_p,
                  "choose among the fewest likely tokens that make up this share; 1: among all "
                  "(default)")
      ->check(is_share)
      ->option_text("P");
  command.add_flag("!--no-cache", options.cache,
                   "compute every token from the whole text before it, to compare");
  command.add_option("--seed", options.seed, "same seed, same text (default 1337)")
      ->option_text("S");
}

}  // namespace

void add_sample_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("sample", "continue a text with a trained model");
  auto arguments = std::make_shared<SampleArguments>();
  command
      ->add_option("--checkpoint", arguments->checkpoint,
                   "a checkpoint directory, or the output of a run: its newest whole checkpoint")
      ->required()
      ->option_text("PATH");
  auto* prompt = command->add_option_group("prompt", "what to continue");
  prompt
      ->add_option("--prompt", arguments->prompts,
                   "text; printed in front of what is added; again for more texts, each on its own")
      ->expected(1)
      ->take_all()
      ->allow_extra_args(false)
      ->option_text("TEXT");
  const CLI::Option* ids = prompt
                               ->add_option("--prompt-ids", arguments->ids_text,
                                            "token ids, as in 1,2,3; then ids are printed")
                               ->option_text("IDS");
  prompt->require_option(1);
  command->add_flag("--ignore-end", arguments->ignore_end,
                    "go on behind the token that ends a text");
  add_choices(*command, arguments->options);
  add_weights_option(*command, arguments->weights);
  set_action(*command, context, [arguments, ids, &context] {
    arguments->by_ids = ids->count() > 0;
    if (arguments->by_ids) arguments->prompt_ids = parse_ids(arguments->ids_text);
    return sample(*arguments, context);
  });
}

}  // namespace lockstep::launcher
