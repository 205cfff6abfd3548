#include "runtime/data/tokenizer/splitter.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/check.h"
#include "runtime/data/tokenizer/unicode_class.h"

namespace lockstep::runtime {

namespace {

// A place in a text. The functions below give the place behind what they match, or the place they
// were given where a pattern may match nothing.
using Place = const char*;

template <typename Predicate>
Place skip_while(Place at, Place end, const Predicate& wanted) {
  for (ClassedChar c = classify(at, end); c.bytes > 0 && wanted(c, at); c = classify(at, end))
    at += c.bytes;
  return at;
}

Place skip_class(Place at, Place end, int classes) {
  return skip_while(at, end, [classes](ClassedChar c, Place) { return c.is(classes); });
}

bool is_newline(char c) {
  return c == '\r' || c == '\n';
}

// 's 't 're 've 'm 'll 'd in lower case.
Place exact_contraction(Place at, Place end) {
  if (end - at < 2 || *at != '\'') return at;
  const std::string_view rest(at + 1,
                              static_cast<std::size_t>(std::min<std::ptrdiff_t>(end - at - 1, 2)));
  if (rest == "re" || rest == "ve" || rest == "ll") return at + 3;
  return std::string_view("stmd").find(rest[0]) != std::string_view::npos ? at + 2 : at;
}

// The same in any case; U+017F folds to s.
Place folded_contraction(Place at, Place end) {
  if (end - at < 2 || *at != '\'') return at;
  if (end - at >= 3 && at[1] == '\xC5' && at[2] == '\xBF') return at + 3;
  std::array<char, 3> lower = {'\'', 0, 0};
  const int n = static_cast<int>(std::min<std::ptrdiff_t>(end - at, 3));
  for (int i = 1; i < n; ++i)
    lower[static_cast<std::size_t>(i)] =
        at[i] >= 'A' && at[i] <= 'Z' ? static_cast<char>(at[i] + 32) : at[i];
  return at + (exact_contraction(lower.data(), lower.data() + n) - lower.data());
}

// \s+(?!\S)|\s+ where `run_end` ends the white space that begins at `at`.
Place white_space(Place at, Place run_end, Place end) {
  if (run_end == end) return end;
  Place last = at;
  for (Place next = at; next != run_end; next += classify(next, run_end).bytes)
    last = next;
  return last == at ? run_end : last;
}

// \s*[\r\n]+|\s+(?!\S)|\s+
Place white_space_by_lines(Place at, Place end) {
  const Place run_end = skip_class(at, end, kWhiteSpace);
  for (Place p = run_end; p != at; --p)
    if (is_newline(p[-1])) return p;
  return white_space(at, run_end, end);
}

// Behind one blank, if there is one.
Place optional_blank(Place at, Place end) {
  return at != end && *at == ' ' ? at + 1 : at;
}

Place symbols(Place at, Place end) {
  return skip_while(at, end, [](ClassedChar c, Place) { return c.is_symbol(); });
}

Place gpt2_piece(Place at, Place end) {
  if (const Place p = exact_contraction(at, end); p != at) return p;
  const Place from = optional_blank(at, end);
  const ClassedChar c = classify(from, end);
  if (c.is(kLetter)) return skip_class(from, end, kLetter);
  if (c.is(kNumber)) return skip_class(from, end, kNumber);
  if (c.is_symbol()) return symbols(from, end);
  return white_space(at, skip_class(at, end, kWhiteSpace), end);
}

Place numbers(Place at, Place end, int most) {
  for (int i = 0; i < most && classify(at, end).is(kNumber); ++i)
    at += classify(at, end).bytes;
  return at;
}

// May stand before a word: [^\r\n\p{L}\p{N}]
bool is_prefix(ClassedChar c, Place at) {
  return !c.is(kLetter | kNumber | kEndOfText) && !is_newline(*at);
}

Place gpt4_piece(Place at, Place end, int digits) {
  if (const Place p = folded_contraction(at, end); p != at) return p;
  const ClassedChar c = classify(at, end);
  if (c.is(kLetter)) return skip_class(at, end, kLetter);
  if (c.is(kNumber)) return numbers(at, end, digits);
  if (is_prefix(c, at) && classify(at + c.bytes, end).is(kLetter))
    return skip_class(at + c.bytes, end, kLetter);
  const Place from = optional_blank(at, end);
  if (classify(from, end).is_symbol())
    return skip_while(symbols(from, end), end, [](ClassedChar, Place p) { return is_newline(*p); });
  return white_space_by_lines(at, end);
}

bool upper_or_other(ClassedChar c) {  // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  return c.is(kMark) || (c.is(kLetter) && !c.is(kLower));
}

bool lower_or_other(ClassedChar c) {  // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  return c.is(kMark) || (c.is(kLetter) && !c.is(kUpper));
}

// U*W+ with U as upper_or_other and W as lower_or_other; null where it does not match. U* takes
// all it can and gives back down to the last character that is in W too.
Place lower_word(Place at, Place end) {
  Place behind_last_both = nullptr;
  const Place upper_end = skip_while(at, end, [&](ClassedChar c, Place p) {
    if (!upper_or_other(c)) return false;
    if (lower_or_other(c)) behind_last_both = p + c.bytes;
    return true;
  });
  const Place lower_end =
      skip_while(upper_end, end, [](ClassedChar c, Place) { return lower_or_other(c); });
  return lower_end != upper_end ? lower_end : behind_last_both;
}

// U+W*; null where it does not match.
Place upper_word(Place at, Place end) {
  const Place upper_end =
      skip_while(at, end, [](ClassedChar c, Place) { return upper_or_other(c); });
  if (upper_end == at) return nullptr;
  return skip_while(upper_end, end, [](ClassedChar c, Place) { return lower_or_other(c); });
}

// A word with the contraction behind it and at most one character before it; null for none.
Place o200k_word(Place at, Place end) {
  const ClassedChar c = classify(at, end);
  for (const auto word : {lower_word, upper_word}) {
    Place found = is_prefix(c, at) ? word(at + c.bytes, end) : nullptr;
    if (found == nullptr) found = word(at, end);
    if (found != nullptr) return folded_contraction(found, end);
  }
  return nullptr;
}

Place o200k_piece(Place at, Place end) {
  if (const Place p = o200k_word(at, end); p != nullptr) return p;
  if (classify(at, end).is(kNumber)) return numbers(at, end, 3);
  const Place from = optional_blank(at, end);
  if (classify(from, end).is_symbol())
    return skip_while(symbols(from, end), end,
                      [](ClassedChar, Place p) { return is_newline(*p) || *p == '/'; });
  return white_space_by_lines(at, end);
}

constexpr const char* kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kO200kRegex =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string gpt4_regex(const std::string& contraction, const std::string& numbers) {
  return contraction + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" + numbers +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

constexpr const char* kContraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const std::array<std::pair<SplitPattern, const char*>, 3> kGpt4Numbers = {
    {{SplitPattern::kGpt4, R"(\p{N}{1,3})"},
     {SplitPattern::kGpt4Two, R"(\p{N}{1,2})"},
     {SplitPattern::kQwen2, R"(\p{N})"}}};

}  // namespace

std::size_t first_piece(SplitPattern pattern, std::string_view text) {
  const Place at = text.data();
  const Place end = at + text.size();
  Place piece_end = end;
  switch (pattern) {
    case SplitPattern::kNone:
      break;
    case SplitPattern::kGpt2:
      piece_end = gpt2_piece(at, end);
      break;
    case SplitPattern::kGpt4:
      piece_end = gpt4_piece(at, end, 3);
      break;
    case SplitPattern::kGpt4Two:
      piece_end = gpt4_piece(at, end, 2);
      break;
    case SplitPattern::kQwen2:
      piece_end = gpt4_piece(at, end, 1);
      break;
    case SplitPattern::kO200k:
      piece_end = o200k_piece(at, end);
      break;
  }
  return static_cast<std::size_t>(piece_end - at);
}

std::size_t word_cut(std::string_view text, std::size_t at) {
  if (at >= text.size()) return text.size();
  for (; at > 0; --at) {
    if (text[at] != ' ' && text[at] != '\n') continue;
    std::size_t begin = at - 1;  // of the character before
    while (begin > 0 && at - begin < 4 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80)
      --begin;
    const ClassedChar before = classify(text.data() + begin, text.data() + at);
    if (begin + static_cast<std::size_t>(before.bytes) == at && before.is(kLetter | kNumber))
      return at;
  }
  return 0;
}

std::optional<SplitPattern> pattern_of_regex(std::string_view regex) {
  if (regex == kGpt2Regex) return SplitPattern::kGpt2;
  if (regex == kO200kRegex) return SplitPattern::kO200k;
  // As tiktoken and nanochat write the contractions.
  for (const char* contraction : {kContraction, "'(?i:[sdmt]|ll|ve|re)"})
    for (const auto& [pattern, numbers] : kGpt4Numbers)
      if (regex == gpt4_regex(contraction, numbers)) return pattern;
  return std::nullopt;
}

std::string regex_of_pattern(SplitPattern pattern) {
  if (pattern == SplitPattern::kGpt2) return kGpt2Regex;
  if (pattern == SplitPattern::kO200k) return kO200kRegex;
  for (const auto& [known, numbers] : kGpt4Numbers)
    if (known == pattern) return gpt4_regex(kContraction, numbers);
  LOCKSTEP_CHECK(false, "no regular expression for pattern {}", static_cast<int>(pattern));
  return "";
}

std::optional<SplitPattern> pattern_of_name(std::string_view name) {
  if (name == "gpt2") return SplitPattern::kGpt2;
  if (name == "gpt4") return SplitPattern::kGpt4;
  if (name == "qwen2") return SplitPattern::kQwen2;
  if (name == "o200k") return SplitPattern::kO200k;
  return std::nullopt;
}

}  // namespace lockstep::runtime
