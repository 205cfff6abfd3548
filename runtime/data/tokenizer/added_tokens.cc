#include "runtime/data/tokenizer/added_tokens.h"

#include <algorithm>
#include <cstddef>

#include "runtime/data/tokenizer/unicode_class.h"

namespace lockstep::runtime {

namespace {

std::size_t white_space_before(std::string_view text, std::size_t from, std::size_t at) {
  // Forward, because characters are not found backward where bytes are no UTF-8.
  std::size_t begin = at;
  bool within = false;
  for (std::size_t p = from; p < at;) {
    const ClassedChar c = classify(text.data() + p, text.data() + at);
    if (c.is(kWhiteSpace) && !within) begin = p;
    within = c.is(kWhiteSpace);
    if (!within) begin = at;
    p += static_cast<std::size_t>(c.bytes);
  }
  return begin;
}

std::size_t white_space_behind(std::string_view text, std::size_t at) {
  const char* end = text.data() + text.size();
  const char* p = text.data() + at;
  for (ClassedChar c = classify(p, end); c.is(kWhiteSpace); c = classify(p, end))
    p += c.bytes;
  return static_cast<std::size_t>(p - text.data());
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& token : tokens_)
    begins_[static_cast<unsigned char>(token.content.front())] = true;
}

const AddedToken* AddedTokenFinder::token_at(std::string_view rest) const {
  const auto found = std::find_if(tokens_.begin(), tokens_.end(), [rest](const AddedToken& token) {
    return rest.starts_with(token.content);
  });
  return found == tokens_.end() ? nullptr : &*found;
}

void AddedTokenFinder::split(std::string_view text, bool special,
                             std::vector<TextPart>& parts) const {
  std::size_t done = 0;
  for (std::size_t at = 0; !tokens_.empty() && at < text.size();) {
    const AddedToken* token = nullptr;
    if (begins_[static_cast<unsigned char>(text[at])]) token = token_at(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    const std::size_t end = at + token->content.size();
    if (!token->special || special) {
      const std::size_t begin = token->strip_left ? white_space_before(text, done, at) : at;
      if (begin > done) parts.push_back({text.substr(done, begin - done)});
      done = token->strip_right ? white_space_behind(text, end) : end;
      parts.push_back({text.substr(begin, done - begin), token->id});
    }
    at = std::max(end, done);
  }
  if (done < text.size()) parts.push_back({text.substr(done)});
}

bool AddedTokenFinder::keeps_to_words() const {
  return std::all_of(tokens_.begin(), tokens_.end(), [](const AddedToken& token) {
    const std::string& text = token.content;
    const bool has_space = std::any_of(text.begin(), text.end(), [](char c) {
      return c == ' ' || c == '\n' || c == '\t' || c == '\r';
    });
    return !token.strip_left && !token.strip_right && !has_space;
  });
}

}  // namespace lockstep::runtime
