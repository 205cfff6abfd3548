#include "runtime/data/tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "runtime/data/tokenizer/nfc_table.h"
#include "runtime/data/tokenizer/utf8.h"

namespace lockstep::runtime {

namespace {

// Hangul syllables compose by arithmetic (The Unicode Standard, section 3.12).
constexpr char32_t kSyllableBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161,
                   kTailBase = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28;

std::uint64_t pair_key(char32_t first, char32_t second) {
  return static_cast<std::uint64_t>(first) << 32 | second;
}

class NfcData {
 public:
  NfcData() {
    for (const CombiningRun& run : kCombiningRuns)
      for (char32_t code = run.first; code <= run.last; ++code)
        classes_[code] = run.combining_class;
    for (const CharacterPair& pair : kDecompositions) {
      decompositions_[pair.code] = pair;
      const bool excluded = std::binary_search(kCompositionExclusions.begin(),
                                               kCompositionExclusions.end(), pair.code);
      if (pair.second != 0 && !excluded)
        compositions_[pair_key(pair.first, pair.second)] = pair.code;
    }
  }

  std::uint8_t combining_class(char32_t code) const {
    const auto found = classes_.find(code);
    return found == classes_.end() ? 0 : found->second;
  }

  void decompose(char32_t code, std::vector<char32_t>& out) const {
    if (code - kSyllableBase < kLeads * kVowels * kTails) {
      const char32_t syllable = code - kSyllableBase;
      out.push_back(kLeadBase + syllable / (kVowels * kTails));
      out.push_back(kVowelBase + syllable / kTails % kVowels);
      if (syllable % kTails != 0) out.push_back(kTailBase + syllable % kTails);
      return;
    }
    const auto found = decompositions_.find(code);
    if (found == decompositions_.end()) {
      out.push_back(code);
      return;
    }
    decompose(found->second.first, out);
    if (found->second.second != 0) decompose(found->second.second, out);
  }

  // 0 where they do not compose.
  char32_t compose(char32_t first, char32_t second) const {
    if (first - kLeadBase < kLeads && second - kVowelBase < kVowels)
      return kSyllableBase + ((first - kLeadBase) * kVowels + second - kVowelBase) * kTails;
    const char32_t syllable = first - kSyllableBase;
    if (syllable < kLeads * kVowels * kTails && syllable % kTails == 0 &&
        second - kTailBase - 1 < kTails - 1)
      return first + second - kTailBase;
    const auto found = compositions_.find(pair_key(first, second));
    return found == compositions_.end() ? 0 : found->second;
  }

 private:
  std::unordered_map<char32_t, std::uint8_t> classes_;
  std::unordered_map<char32_t, CharacterPair> decompositions_;
  std::unordered_map<std::uint64_t, char32_t> compositions_;
};

// Normalises a stretch of characters without an invalid byte.
void normalize_stretch(const NfcData& data, std::vector<char32_t>& codes, std::string& out) {
  std::vector<char32_t> decomposed;
  for (const char32_t code : codes)
    data.decompose(code, decomposed);
  const auto class_of = [&](char32_t code) { return data.combining_class(code); };
  for (std::size_t begin = 0; begin < decomposed.size();) {
    std::size_t end = begin + 1;
    if (class_of(decomposed[begin]) != 0) {
      while (end < decomposed.size() && class_of(decomposed[end]) != 0)
        ++end;
      std::stable_sort(decomposed.begin() + static_cast<std::ptrdiff_t>(begin),
                       decomposed.begin() + static_cast<std::ptrdiff_t>(end),
                       [&](char32_t a, char32_t b) { return class_of(a) < class_of(b); });
    }
    begin = end;
  }
  // A character joins the last starter unless one between them has class 0 or its own class or a
  // greater one.
  std::vector<char32_t> composed;
  std::size_t starter = decomposed.size();  // index into composed
  int last_class = -1;                      // of what stands behind the starter; -1: nothing
  for (const char32_t code : decomposed) {
    const int combining = class_of(code);
    if (starter < composed.size() && last_class < combining) {
      if (const char32_t joined = data.compose(composed[starter], code); joined != 0) {
        composed[starter] = joined;
        continue;
      }
    }
    if (combining == 0) {
      starter = composed.size();
      last_class = -1;
    } else {
      last_class = combining;
    }
    composed.push_back(code);
  }
  for (const char32_t code : composed)
    append_utf8(out, code);
  codes.clear();
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  if (std::all_of(text.begin(), text.end(), is_ascii)) return std::string(text);
  static const NfcData data;
  std::string out;
  out.reserve(text.size());
  std::vector<char32_t> codes;
  for (const char *at = text.data(), *end = at + text.size(); at != end;) {
    const Utf8Char c = decode_utf8(at, end);
    // What is ASCII begins a stretch of its own: nothing composes into it from before.
    if (c.code < 0x80 || !c.valid) normalize_stretch(data, codes, out);
    if (c.valid) {
      codes.push_back(c.code);
    } else {
      out.push_back(*at);
    }
    at += c.bytes;
  }
  normalize_stretch(data, codes, out);
  return out;
}

}  // namespace lockstep::runtime
