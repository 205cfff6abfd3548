#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::runtime {

// A token that is cut out of a text before it is split into pieces.
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool strip_left = false;   // takes the white space before it with it
  bool strip_right = false;  // and behind it
  bool normalized = false;   // searched in the normalised text
  bool special = false;      // stands for no text
};

// A stretch of a text: an added token, or text between two (id -1).
struct TextPart {
  std::string_view text;
  std::int32_t id = -1;
};

// Finds added tokens as `tokenizers` does: the leftmost one first, the longest among those that
// begin at the same place.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // Appends the parts of `text`. Without `special`, special tokens are text.
  void split(std::string_view text, bool special, std::vector<TextPart>& parts) const;

  // Whether no token can reach over a boundary between a letter or number and white space.
  bool keeps_to_words() const;

 private:
  const AddedToken* token_at(std::string_view rest) const;

  std::vector<AddedToken> tokens_;  // longest first
  std::array<bool, 256> begins_{};  // a token begins with this byte
};

}  // namespace lockstep::runtime
