#include "launcher/commands/tokenizer_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "core/error.h"
#include "runtime/data/tokenizer/tokenizer.h"
#include "runtime/data/tokenizer/tokenizer_files.h"

namespace lockstep::launcher {
namespace {

struct TrainArguments {
  std::string type = "bpe";
  std::string pattern = "gpt4";
  std::vector<std::string> inputs;
  std::vector<std::string> special;
  runtime::TrainTokenizerOptions options;
  OutputFormat format = OutputFormat::kTable;
};

int train_tokenizer(TrainArguments& arguments, CommandContext& context) {
  runtime::TrainTokenizerOptions& options = arguments.options;
  options.inputs.assign(arguments.inputs.begin(), arguments.inputs.end());
  options.pattern = *runtime::pattern_of_name(arguments.pattern);
  if (!arguments.special.empty()) options.training.special = arguments.special;
  if (options.threads == 0)
    options.threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const runtime::TrainedTokenizer trained = runtime::train_tokenizer(options);
  if (arguments.format == OutputFormat::kJson) {
    context.out << nlohmann::ordered_json{{"tokenizer", trained.file.string()},
                                          {"vocab", trained.vocab},
                                          {"bytes", trained.bytes},
                                          {"words", trained.words}}
                       .dump()
                << "\n";
  } else {
    context.out << fmt::format("{}: {} tokens, learned from {} bytes with {} different words\n",
                               trained.file.string(), trained.vocab, trained.bytes, trained.words);
  }
  if (trained.vocab < options.training.vocab)
    context.err << fmt::format(
        "lockstep: the text has no more pairs to merge: {} tokens of the {} asked for\n",
        trained.vocab, options.training.vocab);
  return 0;
}

void add_train_tokenizer(CLI::App& data, CommandContext& context) {
  CLI::App* command = data.add_subcommand("train-tokenizer", "learn a vocabulary from text");
  auto arguments = std::make_shared<TrainArguments>();
  runtime::TrainTokenizerOptions& options = arguments->options;
  command->add_option("--type", arguments->type, "bpe: byte-level byte-pair encoding (default)")
      ->check(CLI::IsMember({"bpe"}).description(""))
      ->option_text("TYPE");
  command->add_option("--vocab", options.training.vocab, "tokens in all, special ones included")
      ->required()
      ->option_text("N");
  command->add_option("--input", arguments->inputs, "text files, or folders of text files")
      ->required()
      ->option_text("PATH...");
  command
      ->add_option("--output", options.output,
                   "directory for tokenizer.json, which --tokenizer bpe:DIR then names")
      ->required()
      ->option_text("DIR");
  command
      ->add_option("--pattern", arguments->pattern,
                   "how text is split into words first, as in gpt2, gpt4 (default), qwen2, o200k")
      ->check(CLI::IsMember({"gpt2", "gpt4", "qwen2", "o200k"}).description(""))
      ->option_text("NAME");
  command
      ->add_option("--special-token", arguments->special,
                   "special tokens, the one that ends a text first (default <|endoftext|>)")
      ->option_text("TEXT...");
  command
      ->add_option("--min-frequency", options.training.min_frequency,
                   "leave out pairs that occur less often (default 1)")
      ->check(CLI::Range(std::int64_t{1}, std::numeric_limits<std::int64_t>::max()).description(""))
      ->option_text("N");
  command->add_option("--threads", options.threads, "default: one for each core")
      ->check(CLI::Range(1, 1024).description(""))
      ->option_text("N");
  options.threads = 0;
  add_output_option(*command, arguments->format);
  set_action(*command, context,
             [arguments, &context] { return train_tokenizer(*arguments, context); });
}

struct CodingArguments {
  std::string tokenizer;
  std::string file;  // empty: standard input
  bool whole = false;
  bool plain = false;
};

std::string read_all(const std::string& file) {
  const auto contents = [](std::istream& in) {
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  if (file.empty()) return contents(std::cin);
  std::ifstream in(file, std::ios::binary);
  std::string text = contents(in);
  if (!in)
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: expected a readable file, found none", file));
  return text;
}

// Calls `visit` with each line without its newline, or with the whole text.
template <typename Visit>
void visit_lines(std::string_view text, bool whole, const Visit& visit) {
  if (whole) return visit(text);
  while (!text.empty()) {
    const std::size_t n = std::min(text.find('\n'), text.size());
    visit(text.substr(0, n));
    text.remove_prefix(std::min(n + 1, text.size()));
  }
}

int encode(const CodingArguments& arguments, std::ostream& out) {
  const auto tokenizer = runtime::make_tokenizer(arguments.tokenizer);
  const std::string text = read_all(arguments.file);
  visit_lines(text, arguments.whole, [&](std::string_view line) {
    std::vector<std::int32_t> ids;
    if (arguments.plain) {
      ids = tokenizer->encode(line);
    } else {
      ids = tokenizer->beginning();
      const std::vector<std::int32_t> inner = tokenizer->encode_special(line);
      ids.insert(ids.end(), inner.begin(), inner.end());
      const std::vector<std::int32_t> ending = tokenizer->ending();
      ids.insert(ids.end(), ending.begin(), ending.end());
    }
    out << fmt::format("[{}]\n", fmt::join(ids, ","));
  });
  return 0;
}

std::vector<std::int32_t> parse_ids(std::string_view line) {
  const auto list = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  std::vector<std::int32_t> ids;
  const auto is_id = [](const nlohmann::json& id) {
    return id.is_number_unsigned() &&
           id.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max();
  };
  if (!list.is_array() || !std::all_of(list.begin(), list.end(), is_id))
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("expected a JSON list of token ids on each line, found \"{}\"",
                                  line.substr(0, 100)));
  return list.get<std::vector<std::int32_t>>();
}

int decode(const CodingArguments& arguments, std::ostream& out) {
  const auto tokenizer = runtime::make_tokenizer(arguments.tokenizer);
  const std::string text = read_all(arguments.file);
  visit_lines(text, arguments.whole, [&](std::string_view line) {
    out << tokenizer->decode(parse_ids(line)) << (arguments.whole ? "" : "\n");
  });
  return 0;
}

std::shared_ptr<CodingArguments> coding_arguments(CLI::App& command) {
  auto arguments = std::make_shared<CodingArguments>();
  command.add_option("--tokenizer", arguments->tokenizer, "bytes or bpe:PATH")
      ->required()
      ->option_text("KIND");
  command.add_option("file", arguments->file, "default: standard input")->option_text("FILE");
  return arguments;
}

void add_coding(CLI::App& data, CommandContext& context) {
  CLI::App* command =
      data.add_subcommand("encode", "print the token ids of each line as a JSON list");
  auto arguments = coding_arguments(*command);
  command->add_flag("--whole", arguments->whole, "one list for the whole text");
  command->add_flag("--plain", arguments->plain,
                    "as data is prepared: the text of a special token is text, and nothing is put "
                    "around");
  set_action(*command, context, [arguments, &context] { return encode(*arguments, context.out); });

  command = data.add_subcommand("decode", "print the text of lists of token ids, one on each line");
  arguments = coding_arguments(*command);
  command->add_flag("--whole", arguments->whole, "the input is one list; no newline is added");
  set_action(*command, context, [arguments, &context] { return decode(*arguments, context.out); });
}

}  // namespace

void add_tokenizer_commands(CLI::App& data, CommandContext& context) {
  add_train_tokenizer(data, context);
  add_coding(data, context);
}

}  // namespace lockstep::launcher
