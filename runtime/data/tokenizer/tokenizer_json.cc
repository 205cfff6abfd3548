#include "runtime/data/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/mapped_file.h"
#include "runtime/data/tokenizer/nfc.h"

namespace lockstep::runtime {

namespace {

using nlohmann::json;

// A part of a tokenizer.json, by its path in it.
class Part {
 public:
  Part(const json& value, std::string path, const std::string& origin)
      : value_(value), path_(std::move(path)), origin_(origin) {}

  [[noreturn]] void fail(const std::string& expected) const {
    std::string found = value_.dump(-1, ' ', false, json::error_handler_t::replace);
    if (found.size() > 200) found = found.substr(0, 200) + "...";
    throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}: expected {}, found {}", origin_,
                                                          path_, expected, found));
  }

  bool is_null() const { return value_.is_null(); }
  const json& value() const { return value_; }

  // A field; null where there is none.
  Part at(const std::string& name) const {
    static const json null;
    if (!value_.is_object()) fail("an object");
    const auto found = value_.find(name);
    return {found == value_.end() ? null : *found, path_.empty() ? name : path_ + "." + name,
            origin_};
  }

  std::vector<Part> items() const {
    if (is_null()) return {};
    if (!value_.is_array()) fail("a list");
    std::vector<Part> items;
    for (std::size_t i = 0; i < value_.size(); ++i)
      items.emplace_back(value_[i], fmt::format("{}[{}]", path_, i), origin_);
    return items;
  }

  bool flag(const std::string& name, bool otherwise) const {
    const Part part = at(name);
    if (part.is_null()) return otherwise;
    if (!part.value_.is_boolean()) part.fail("true or false");
    return part.value_.get<bool>();
  }

  const std::string& text() const {
    if (!value_.is_string()) fail("a string");
    return value_.get_ref<const std::string&>();
  }

  std::int32_t id() const {
    if (!value_.is_number_unsigned() || value_.get<std::uint64_t>() >= (1U << 24))
      fail("a token id, 0 to 2^24 - 1");
    return value_.get<std::int32_t>();
  }

  std::string type() const { return at("type").text(); }

 private:
  const json& value_;
  std::string path_;
  const std::string& origin_;
};

std::pair<std::string, std::string> read_merge(const Part& part) {
  if (part.value().is_array()) {
    const std::vector<Part> two = part.items();
    if (two.size() != 2) part.fail("a pair of tokens");
    return {two[0].text(), two[1].text()};
  }
  const std::string& line = part.text();
  const std::size_t blank = line.find(' ');
  if (blank == std::string::npos || line.find(' ', blank + 1) != std::string::npos)
    part.fail("two tokens with a blank between them");
  return {line.substr(0, blank), line.substr(blank + 1)};
}

BpeVocabulary read_model(const Part& model) {
  const Part type = model.at("type");
  if (!type.is_null() && type.text() != "BPE") type.fail("BPE, the one model this version has");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Part part = model.at(affix);
    if (!part.is_null() && !part.text().empty()) part.fail("null, as byte-level BPE has it");
  }
  const Part dropout = model.at("dropout");
  if (!dropout.is_null() && dropout.value() != 0.0) dropout.fail("null");
  // unk_token, fuse_unk and byte_fallback do nothing where every byte has a token.
  BpeVocabulary vocabulary;
  vocabulary.ignore_merges = model.flag("ignore_merges", false);
  const Part tokens = model.at("vocab");
  if (!tokens.value().is_object()) tokens.fail("an object of tokens and ids");
  for (const auto& [token, id] : tokens.value().items())
    vocabulary.tokens.emplace_back(token, tokens.at(token).id());
  for (const Part& merge : model.at("merges").items())
    vocabulary.merges.push_back(read_merge(merge));
  return vocabulary;
}

bool read_normalizer(const Part& normalizer) {
  if (normalizer.is_null()) return false;
  if (normalizer.type() == "NFC") return true;
  if (normalizer.type() != "Sequence") normalizer.fail("null or NFC");
  bool nfc = false;
  for (const Part& part : normalizer.at("normalizers").items())
    nfc = read_normalizer(part) || nfc;
  return nfc;
}

SplitPattern read_split(const Part& split) {
  const std::string behavior = split.at("behavior").text();
  // The patterns match every character, so that what is between matches is nothing.
  if (behavior != "Isolated" && !(behavior == "Removed" && split.flag("invert", false)))
    split.fail("a Split with behavior Isolated");
  const Part regex = split.at("pattern").at("Regex");
  if (const auto pattern = pattern_of_regex(regex.text())) return *pattern;
  regex.fail(
      "the pattern of GPT-2, GPT-4, Llama 3, Qwen2 or GPT-4o, in the form in which their "
      "tokenizer.json has it (\"{1,3}+\" means something else there than in tiktoken)");
}

void read_pre_tokenizer(const Part& pre, BpeDefinition& definition) {
  if (pre.is_null()) pre.fail("ByteLevel, or a Sequence of Split and ByteLevel");
  if (pre.type() == "ByteLevel") {
    definition.pattern = pre.flag("use_regex", true) ? SplitPattern::kGpt2 : SplitPattern::kNone;
    definition.add_prefix_space = pre.flag("add_prefix_space", true);
    return;
  }
  if (pre.type() != "Sequence") pre.fail("ByteLevel, or a Sequence of Split and ByteLevel");
  const std::vector<Part> parts = pre.at("pretokenizers").items();
  if (parts.size() == 1) return read_pre_tokenizer(parts[0], definition);
  if (parts.size() != 2 || parts[0].type() != "Split" || parts[1].type() != "ByteLevel")
    pre.fail("a Sequence of Split and ByteLevel");
  definition.pattern = read_split(parts[0]);
  if (parts[1].flag("use_regex", true)) parts[1].fail("use_regex false behind a Split");
  if (parts[1].flag("add_prefix_space", true))
    parts[1].fail("add_prefix_space false behind a Split");
}

void append_ids(const Part& ids, std::vector<std::int32_t>& to) {
  for (const Part& id : ids.items())
    to.push_back(id.id());
}

void read_template(const Part& processor, BpeDefinition& definition) {
  bool text_seen = false;
  for (const Part& item : processor.at("single").items()) {
    if (!item.at("Sequence").is_null()) {
      if (text_seen) item.fail("the text once in a template");
      text_seen = true;
      continue;
    }
    const std::string& name = item.at("SpecialToken").at("id").text();
    append_ids(processor.at("special_tokens").at(name).at("ids"),
               text_seen ? definition.ending : definition.beginning);
  }
  if (!text_seen) processor.at("single").fail("a template with the text in it");
}

void read_post_processor(const Part& processor, BpeDefinition& definition) {
  if (processor.is_null() || processor.type() == "ByteLevel") return;  // offsets alone
  const std::string type = processor.type();
  if (type == "TemplateProcessing") {
    read_template(processor, definition);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    definition.beginning.push_back(processor.at("cls").items().at(1).id());
    definition.ending.push_back(processor.at("sep").items().at(1).id());
  } else if (type == "Sequence") {
    for (const Part& part : processor.at("processors").items())
      read_post_processor(part, definition);
  } else {
    processor.fail("ByteLevel, TemplateProcessing or RobertaProcessing");
  }
}

AddedToken read_added(const Part& part, bool nfc) {
  AddedToken token;
  token.content = part.at("content").text();
  token.id = part.at("id").id();
  token.strip_left = part.flag("lstrip", false);
  token.strip_right = part.flag("rstrip", false);
  token.special = part.flag("special", false);
  token.normalized = part.flag("normalized", !token.special);
  if (part.flag("single_word", false)) part.fail("single_word false");
  if (token.normalized && nfc) token.content = normalize_nfc(token.content);
  return token;
}

json read_json(const std::filesystem::path& path) {
  const core::MappedFile file(path);
  const auto* text = reinterpret_cast<const char*>(file.data());
  json object = json::parse(text, text + file.size(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object())
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: expected a JSON object of tokens and ids", path.string()));
  return object;
}

std::vector<std::string> read_merge_lines(const std::filesystem::path& path) {
  const core::MappedFile file(path);
  std::string_view rest(reinterpret_cast<const char*>(file.data()), file.size());
  std::vector<std::string> lines;
  while (!rest.empty()) {
    const std::size_t n = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, n);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(lines.empty() && line.starts_with("#version"))) lines.emplace_back(line);
    rest.remove_prefix(std::min(n + 1, rest.size()));
  }
  return lines;
}

json added_token(const std::string& content, std::int32_t id) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json pre_tokenizer(SplitPattern pattern) {
  if (pattern == SplitPattern::kGpt2 || pattern == SplitPattern::kNone)
    return byte_level(pattern == SplitPattern::kGpt2);
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", regex_of_pattern(pattern)}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}};
}

json make_tokenizer_json(json vocab, json merges, json added, SplitPattern pattern) {
  json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false}};
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(added)},
          {"normalizer", nullptr},
          {"pre_tokenizer", pre_tokenizer(pattern)},
          {"post_processor", byte_level(true)},
          {"decoder", byte_level(true)},
          {"model", std::move(model)}};
}

}  // namespace

BpeDefinition parse_tokenizer_json(const std::string& text, const std::string& origin) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object())
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: expected a tokenizer.json, found no JSON object", origin));
  const Part root(object, "", origin);
  for (const char* name : {"truncation", "padding"})
    if (!root.at(name).is_null()) root.at(name).fail("null: texts are encoded whole");
  BpeDefinition definition;
  definition.vocabulary = read_model(root.at("model"));
  definition.nfc = read_normalizer(root.at("normalizer"));
  read_pre_tokenizer(root.at("pre_tokenizer"), definition);
  read_post_processor(root.at("post_processor"), definition);
  const Part decoder = root.at("decoder");
  if (!decoder.is_null() && decoder.type() != "ByteLevel") decoder.fail("ByteLevel");
  for (const Part& part : root.at("added_tokens").items())
    definition.added.push_back(read_added(part, definition.nfc));
  return definition;
}

std::string tokenizer_json_of_gpt2(const std::filesystem::path& vocab,
                                   const std::filesystem::path& merges) {
  json tokens = read_json(vocab);
  json added = json::array();
  constexpr const char* kEndOfText = "<|endoftext|>";
  if (tokens.contains(kEndOfText) && tokens[kEndOfText].is_number_unsigned())
    added.push_back(added_token(kEndOfText, tokens[kEndOfText].get<std::int32_t>()));
  return make_tokenizer_json(std::move(tokens), read_merge_lines(merges), std::move(added),
                             SplitPattern::kGpt2)
      .dump();
}

std::string write_tokenizer_json(const BpeVocabulary& vocabulary,
                                 const std::vector<std::string>& special, SplitPattern pattern) {
  json tokens = json::object();
  for (const auto& [token, id] : vocabulary.tokens)
    tokens[token] = id;
  json merges = json::array();
  for (const auto& [left, right] : vocabulary.merges)
    merges.push_back({left, right});
  json added = json::array();
  for (const std::string& token : special)
    added.push_back(added_token(token, tokens.at(token).get<std::int32_t>()));
  return make_tokenizer_json(std::move(tokens), std::move(merges), std::move(added), pattern)
      .dump();
}

}  // namespace lockstep::runtime
