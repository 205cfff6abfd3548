#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/data/tokenizer/tokenizer.h"
#include "runtime/sampling/scorer.h"

namespace lockstep::runtime {

struct TextScore {
  double loss = 0.0;           // mean cross-entropy of a token, nats
  double perplexity = 0.0;     // exp(loss)
  double bits_per_byte = 0.0;  // sum of the cross-entropy / (bytes * ln 2)
  std::int64_t tokens = 0;     // predicted
  std::int64_t bytes = 0;      // that the predicted tokens stand for; special ones count none
};

// Every token of every document is predicted once, from as many tokens before it as fit: windows of
// the context's length follow one another, the last one filled up on the left. The first token of a
// document is predicted from the tokenizer's beginning or end-of-text token; where it has neither,
// as with bytes, it is not predicted. Throws Error(kData) if no token is left to predict.
TextScore score_documents(Scorer& scorer, const Tokenizer& tokenizer,
                          std::span<const std::vector<std::int32_t>> documents);

struct MultipleChoice {
  std::string context;
  std::vector<std::string> choices;
  std::size_t label = 0;
};

struct MultipleChoiceScore {
  double accuracy = 0.0;             // the choice with the greatest log-likelihood is the label
  double accuracy_normalised = 0.0;  // divided by the choice's characters
  double accuracy_bytes = 0.0;       // divided by its bytes
  std::int64_t examples = 0;
};

// As lm-evaluation-harness: a choice is scored as the tokens that context + " " + choice has more
// than the context (white space at the context's end belongs to the choice); the first one wins
// among equals; the context is cut on the left. Throws Error(kData), naming the example's number,
// for a choice longer than the model's context, and for an empty context where the tokenizer has no
// token to begin with.
MultipleChoiceScore score_choices(Scorer& scorer, const Tokenizer& tokenizer,
                                  std::span<const MultipleChoice> examples);

// One JSON object a line. Throws Error(kData) naming file, line and what was expected.
std::vector<MultipleChoice> read_multiple_choice(const std::string& path);

// The documents that a path names: a prepared directory (its validation text, else its training
// text, as one), the lines of a .jsonl file (their field `text_field`), or text files, each one
// document, a folder's in order.
std::vector<std::vector<std::int32_t>> read_documents(const std::string& path,
                                                      const Tokenizer& tokenizer,
                                                      const std::string& text_field);

}  // namespace lockstep::runtime
