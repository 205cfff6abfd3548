#include "runtime/data/tokenizer/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/mapped_file.h"
#include "runtime/data/tokenizer/nfc.h"
#include "runtime/data/tokenizer/splitter.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

using nlohmann::json;

constexpr std::array<const char*, 5> kUsualEnds = {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>",
                                                   "</s>", "<eos>"};

[[noreturn]] void fail(const std::string& origin, const std::string& message) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", origin, message));
}

std::string read_text(const fs::path& path) {
  const core::MappedFile file(path);
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

// JSON without the white space between its parts, order and spelling as they are.
std::string compact(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (!quoted && (c == ' ' || c == '\n' || c == '\t' || c == '\r')) continue;
    out.push_back(c);
    if (c == '"') quoted = !quoted;
    if (quoted && c == '\\' && i + 1 < text.size()) out.push_back(text[++i]);
  }
  return out;
}

// "eos_token" of a tokenizer_config.json: a string, or an object with "content".
std::string configured_end(const fs::path& directory) {
  const fs::path path = directory / "tokenizer_config.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return "";
  const json config = json::parse(read_text(path), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || !config.contains("eos_token")) return "";
  const json& token = config["eos_token"];
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string())
    return token["content"].get<std::string>();
  return "";
}

std::string usual_end(const std::vector<AddedToken>& added) {
  for (const char* name : kUsualEnds)
    for (const AddedToken& token : added)
      if (token.content == name) return name;
  return "";
}

std::vector<AddedToken> tokens_by_text(const std::vector<AddedToken>& added, bool normalized) {
  std::vector<AddedToken> tokens;
  std::copy_if(added.begin(), added.end(), std::back_inserter(tokens),
               [normalized](const AddedToken& token) { return token.normalized == normalized; });
  return tokens;
}

}  // namespace

// A cache that nobody else uses meanwhile; kept for the next call.
class BpeTokenizer::BorrowedCache {
 public:
  explicit BorrowedCache(const BpeTokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard lock(owner_.mutex_);
      if (!owner_.idle_caches_.empty()) {
        cache_ = std::move(owner_.idle_caches_.back());
        owner_.idle_caches_.pop_back();
      }
    }
    if (!cache_) cache_ = std::make_unique<PieceCache>();
  }
  ~BorrowedCache() {
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_caches_.push_back(std::move(cache_));
  }
  BorrowedCache(const BorrowedCache&) = delete;
  BorrowedCache& operator=(const BorrowedCache&) = delete;
  PieceCache& operator*() const { return *cache_; }

 private:
  const BpeTokenizer& owner_;
  std::unique_ptr<PieceCache> cache_;
};

BpeTokenizer::BpeTokenizer(std::string json, std::string end_of_text, const std::string& origin)
    : json_(compact(json)),
      definition_(parse_tokenizer_json(json_, origin)),
      model_(definition_.vocabulary, origin),
      raw_tokens_(tokens_by_text(definition_.added, false)),
      normalized_tokens_(tokens_by_text(definition_.added, true)) {
  add_tokens(origin);
  definition_.vocabulary = {};  // the model has it
  for (const std::int32_t id : beginning())
    if (id >= vocab())
      fail(origin, fmt::format("post_processor: expected known ids, found {}", id));
  for (const std::int32_t id : ending())
    if (id >= vocab())
      fail(origin, fmt::format("post_processor: expected known ids, found {}", id));
  if (end_of_text.empty()) return;
  for (const AddedToken& token : definition_.added)
    if (token.content == end_of_text) end_of_text_ = token.id;
  if (!end_of_text_)
    fail(origin, fmt::format("expected the end-of-text token \"{}\" among added_tokens, found none",
                             end_of_text));
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::add_tokens(const std::string& origin) {
  std::int64_t most = model_.vocab();
  for (const AddedToken& token : definition_.added)
    most = std::max<std::int64_t>(most, token.id + 1);
  texts_.resize(static_cast<std::size_t>(most));
  special_.resize(static_cast<std::size_t>(most));
  for (std::int32_t id = 0; id < model_.vocab(); ++id)
    if (model_.has(id)) texts_[static_cast<std::size_t>(id)] = model_.bytes_of(id);
  for (const AddedToken& token : definition_.added) {
    const auto at = static_cast<std::size_t>(token.id);
    const std::int32_t own = model_.id_of(token.content);
    if (own >= 0 ? own != token.id : texts_[at].has_value())
      fail(origin, fmt::format("added_tokens: expected an id of its own for \"{}\", or that of the "
                               "vocabulary, found {}",
                               token.content, token.id));
    texts_[at] = token.content;
    special_[at] = token.special;
  }
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text) const {
  return encode(text, false);
}

std::vector<std::int32_t> BpeTokenizer::encode_special(std::string_view text) const {
  return encode(text, true);
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text, bool special) const {
  const BorrowedCache cache(*this);
  std::vector<std::int32_t> ids;
  std::vector<TextPart> raw;
  raw_tokens_.split(text, special, raw);
  std::vector<TextPart> parts;
  for (const TextPart& part : raw) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const std::string normalized = definition_.nfc ? normalize_nfc(part.text) : std::string();
    parts.clear();
    normalized_tokens_.split(definition_.nfc ? std::string_view(normalized) : part.text, special,
                             parts);
    for (const TextPart& piece : parts) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
      } else {
        encode_part(piece.text, *cache, ids);
      }
    }
  }
  return ids;
}

void BpeTokenizer::encode_part(std::string_view text, PieceCache& cache,
                               std::vector<std::int32_t>& ids) const {
  std::string prefixed;
  if (definition_.add_prefix_space && !text.starts_with(' ')) {
    prefixed = " " + std::string(text);
    text = prefixed;
  }
  while (!text.empty()) {
    const std::size_t n = first_piece(definition_.pattern, text);
    model_.encode(text.substr(0, n), cache, ids);
    text.remove_prefix(n);
  }
}

bool BpeTokenizer::special(std::int32_t id) const {
  return id >= 0 && id < vocab() && special_[static_cast<std::size_t>(id)];
}

// Nothing composes across the place where words are cut.
std::size_t BpeTokenizer::cut_before(std::string_view text, std::size_t at) const {
  if (at >= text.size()) return text.size();
  if (definition_.pattern == SplitPattern::kNone || definition_.add_prefix_space ||
      !raw_tokens_.keeps_to_words() || !normalized_tokens_.keeps_to_words())
    return 0;
  return word_cut(text, at);
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab() || !texts_[static_cast<std::size_t>(id)])
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("expected ids of the tokenizer, below {}, found {}; use the "
                                    "tokenizer with which the data was made",
                                    vocab(), id));
    text += *texts_[static_cast<std::size_t>(id)];
  }
  return text;
}

std::string BpeTokenizer::description() const {
  json object = {{"type", "bpe"}, {"end_of_text", nullptr}, {"tokenizer_json", json_}};
  if (end_of_text_) object["end_of_text"] = *texts_[static_cast<std::size_t>(*end_of_text_)];
  return object.dump();
}

std::unique_ptr<BpeTokenizer> read_bpe_tokenizer(const std::string& path) {
  fs::path file = path;
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    const bool whole = fs::exists(file / "tokenizer.json", ignored);
    if (!whole && !fs::exists(file / "vocab.json", ignored))
      fail(path,
           "expected tokenizer.json, or vocab.json and merges.txt, in this directory, found "
           "neither");
    file /= whole ? "tokenizer.json" : "vocab.json";
  }
  const fs::path directory = file.parent_path();
  const bool two_files = file.filename() == "vocab.json";
  std::string json =
      two_files ? tokenizer_json_of_gpt2(file, directory / "merges.txt") : read_text(file);
  std::string end = configured_end(directory);
  if (end.empty()) end = usual_end(parse_tokenizer_json(json, file.string()).added);
  return std::make_unique<BpeTokenizer>(std::move(json), std::move(end), file.string());
}

}  // namespace lockstep::runtime
