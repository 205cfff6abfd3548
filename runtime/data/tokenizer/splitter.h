#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::runtime {

// The pre-tokenisation patterns of byte-level BPE, written by hand over Unicode 16.0: they cut a
// text into pieces that no token crosses. Each gives the pieces of its regular expression as
// Oniguruma, which `tokenizers` has, reads it.
enum class SplitPattern {
  kNone,  // the whole text is one piece
  kGpt2,  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kGpt4,  // cl100k and Llama 3: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
          // ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  kGpt4Two,  // the same with \p{N}{1,2}
  kQwen2,    // the same with \p{N}
  kO200k,    // GPT-4o: words begin at a change from lower to upper case
};

// The length in bytes of the first piece of a text that is not empty.
std::size_t first_piece(SplitPattern pattern, std::string_view text);

// The greatest place in (0, at] between a letter or number and a blank or newline; 0 for none. Every
// pattern but kNone ends a piece there, and gives the same pieces whatever the text is cut off or
// followed by. at >= text.size(): the end of the text.
std::size_t word_cut(std::string_view text, std::size_t at);

// The pattern that a regular expression of a tokenizer.json means; nothing for one that is not
// known.
std::optional<SplitPattern> pattern_of_regex(std::string_view regex);

// The regular expression to write into a tokenizer.json; for any but kNone.
std::string regex_of_pattern(SplitPattern pattern);

// By the names of `data train-tokenizer --pattern`: gpt2, gpt4, qwen2, o200k.
std::optional<SplitPattern> pattern_of_name(std::string_view name);

}  // namespace lockstep::runtime
