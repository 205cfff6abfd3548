#include "runtime/sampling/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>

#include "core/check.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "ops/exact_sum.h"
#include "runtime/data/corpus.h"
#include "runtime/data/json_lines.h"
#include "runtime/data/prepared_meta.h"
#include "runtime/data/token_file.h"
#include "runtime/data/tokenizer/utf8.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<std::int32_t>;

[[noreturn]] void fail(const std::string& message) {
  throw core::Error(core::ErrorKind::kData, message);
}

std::optional<std::int32_t> prefix_token(const Tokenizer& tokenizer) {
  if (const Ids beginning = tokenizer.beginning(); !beginning.empty()) return beginning.back();
  return tokenizer.end_of_text();
}

struct Sums {
  ops::ExactSum log_likelihood;
  std::int64_t tokens = 0;
  std::int64_t bytes = 0;
};

// tokens: the document, a prefix token before it if there is one.
void score_document(Scorer& scorer, const Tokenizer& tokenizer, const Ids& tokens, Sums& sums) {
  const auto context = static_cast<std::size_t>(scorer.context());
  for (std::size_t done = 1; done < tokens.size();) {
    const std::size_t end = std::min(tokens.size(), done + context);
    const std::size_t begin = end > context + 1 ? end - context - 1 : 0;
    const auto window = std::span(tokens).subspan(begin, end - begin);
    for (const double score : scorer.score(window, done - begin))
      sums.log_likelihood.add(score);
    for (; done < end; ++done) {
      ++sums.tokens;
      if (!tokenizer.special(tokens[done]))
        sums.bytes += static_cast<std::int64_t>(tokenizer.decode({&tokens[done], 1}).size());
    }
  }
}

// The log-likelihood of one choice.
double score_choice(Scorer& scorer, const Tokenizer& tokenizer, const MultipleChoice& example,
                    const std::string& choice, const std::string& place) {
  const std::size_t kept = example.context.find_last_not_of(" \t\n\r\v\f") + 1;
  const std::string context = example.context.substr(0, kept);
  const std::string whole = example.context + " " + choice;
  Ids tokens = tokenizer.encode(whole);
  std::size_t first = tokenizer.encode(context).size();
  if (first == 0) {
    const std::optional<std::int32_t> prefix = prefix_token(tokenizer);
    if (!prefix)
      fail(place +
           ": expected a context, found none, and the tokenizer has no token to begin with");
    tokens.insert(tokens.begin(), *prefix);
    first = 1;
  }
  if (first >= tokens.size()) fail(place + ": expected choices of at least one token");
  const auto most = static_cast<std::size_t>(scorer.context()) + 1;
  if (tokens.size() - first >= most)
    fail(fmt::format("{}: expected choices of at most {} tokens, found one of {}", place, most - 1,
                     tokens.size() - first));
  const std::size_t cut = tokens.size() > most ? tokens.size() - most : 0;
  ops::ExactSum sum;
  for (const double score : scorer.score(std::span(tokens).subspan(cut), first - cut))
    sum.add(score);
  return sum.value();
}

std::string_view text_of(const core::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

MultipleChoice parse_example(const json& object, const std::string& place) {
  MultipleChoice example;
  example.context = text_of_field(object, "context", place);
  const auto choices = object.find("choices");
  const auto is_text = [](const json& choice) { return choice.is_string(); };
  if (choices == object.end() || !choices->is_array() || choices->empty() ||
      !std::all_of(choices->begin(), choices->end(), is_text))
    fail_on_field(choices == object.end() ? nullptr : &*choices, "choices", "a list of strings",
                  place);
  example.choices = choices->get<std::vector<std::string>>();
  const auto label = object.find("label");
  if (label == object.end() || !label->is_number_unsigned() ||
      label->get<std::uint64_t>() >= example.choices.size())
    fail_on_field(label == object.end() ? nullptr : &*label, "label",
                  fmt::format("the index of a choice, 0 to {}", example.choices.size() - 1), place);
  example.label = label->get<std::size_t>();
  return example;
}

Ids read_prepared(const std::string& path, const Tokenizer& tokenizer) {
  const PreparedMeta meta = read_prepared_meta(path);
  if (meta.tokenizer != nlohmann::json::parse(tokenizer.description()).dump())
    fail(
        fmt::format("{}: expected data of the checkpoint's tokenizer, found another one; prepare "
                    "it with the tokenizer that the model was trained with, or give text",
                    path));
  const TokenFile file(path, core::DType::kU16,
                       meta.validation_tokens > 0 ? DataSplit::kValidation : DataSplit::kTrain);
  Ids ids(static_cast<std::size_t>(file.tokens()));
  file.read(0, ids);
  return ids;
}

}  // namespace

TextScore score_documents(Scorer& scorer, const Tokenizer& tokenizer,
                          std::span<const std::vector<std::int32_t>> documents) {
  Sums sums;
  const std::optional<std::int32_t> prefix = prefix_token(tokenizer);
  for (const Ids& document : documents) {
    Ids tokens;
    if (prefix && (document.empty() || document.front() != *prefix)) tokens.push_back(*prefix);
    tokens.insert(tokens.end(), document.begin(), document.end());
    score_document(scorer, tokenizer, tokens, sums);
  }
  if (sums.tokens == 0) fail("expected text of at least two tokens, found less");
  const double nats = -sums.log_likelihood.value();
  TextScore score;
  score.tokens = sums.tokens;
  score.bytes = sums.bytes;
  score.loss = nats / static_cast<double>(sums.tokens);
  score.perplexity = std::exp(score.loss);
  score.bits_per_byte = nats / (static_cast<double>(sums.bytes) * std::numbers::ln2);
  return score;
}

MultipleChoiceScore score_choices(Scorer& scorer, const Tokenizer& tokenizer,
                                  std::span<const MultipleChoice> examples) {
  std::array<std::int64_t, 3> right{};
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const MultipleChoice& example = examples[i];
    std::array<std::size_t, 3> best{};
    std::array<double, 3> greatest{};
    for (std::size_t c = 0; c < example.choices.size(); ++c) {
      const std::string& choice = example.choices[c];
      const double score =
          score_choice(scorer, tokenizer, example, choice, fmt::format("example {}", i + 1));
      const auto characters =
          static_cast<double>(std::max<std::size_t>(1, count_characters(choice)));
      const auto bytes = static_cast<double>(std::max<std::size_t>(1, choice.size()));
      const std::array<double, 3> scores = {score, score / characters, score / bytes};
      for (std::size_t kind = 0; kind < scores.size(); ++kind) {
        if (c > 0 && scores[kind] <= greatest[kind]) continue;
        best[kind] = c;
        greatest[kind] = scores[kind];
      }
    }
    for (std::size_t kind = 0; kind < best.size(); ++kind)
      right[kind] += best[kind] == example.label ? 1 : 0;
  }
  const auto share = [&](std::size_t kind) {
    return static_cast<double>(right[kind]) / static_cast<double>(examples.size());
  };
  if (examples.empty()) fail("expected at least one example, found none");
  return {share(0), share(1), share(2), static_cast<std::int64_t>(examples.size())};
}

std::vector<MultipleChoice> read_multiple_choice(const std::string& path) {
  std::vector<MultipleChoice> examples;
  const core::MappedFile file(path);
  visit_json_lines(text_of(file), path, [&](const json& object, const std::string& place) {
    examples.push_back(parse_example(object, place));
  });
  if (examples.empty()) fail(path + ": expected at least one example, found none");
  return examples;
}

std::vector<Ids> read_documents(const std::string& path, const Tokenizer& tokenizer,
                                const std::string& text_field) {
  std::error_code ignored;
  if (fs::exists(fs::path(path) / kMetaFile, ignored)) return {read_prepared(path, tokenizer)};
  std::vector<Ids> documents;
  if (path.ends_with(".jsonl")) {
    const core::MappedFile file(path);
    visit_json_lines(text_of(file), path, [&](const json& object, const std::string& place) {
      documents.push_back(tokenizer.encode(text_of_field(object, text_field, place)));
    });
    return documents;
  }
  const Corpus corpus({path});
  for (const std::string_view text : corpus.texts())
    documents.push_back(tokenizer.encode(text));
  return documents;
}

}  // namespace lockstep::runtime
