#include "runtime/step/ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/hash.h"
#include "core/json_text.h"

namespace lockstep::runtime {

namespace {

constexpr const char* kHashKey = ",\"hash\":\"";

std::string hash_list(const std::vector<std::uint64_t>& hashes) {
  std::string text = "[";
  for (std::size_t i = 0; i < hashes.size(); ++i) {
    text += fmt::format("{}\"{}\"", i == 0 ? "" : ",", core::to_hex(hashes[i]));
  }
  return text + "]";
}

// The line without its hash and closing brace.
std::string canonical_text(const LedgerRecord& r) {
  using core::json_number;
  std::string text = fmt::format(
      R"({{"version":1,"step":{},"data_position":{},"outcome":"{}","applied_steps":{},"tokens":{},)"
      R"("loss":{},"grad_norm":{},"coefficient":{},"learning_rate":{},"loss_scale":{},)"
      R"("next_loss_scale":{},"config_fingerprint":"{}")",
      r.step, r.data_position, r.outcome, r.applied_steps, r.tokens, json_number(r.loss),
      json_number(r.grad_norm), json_number(r.coefficient), json_number(r.learning_rate),
      json_number(r.loss_scale), json_number(r.next_loss_scale),
      core::to_hex(r.config_fingerprint));
  if (!r.clip.empty()) text += ",\"clip\":" + r.clip;
  if (r.ranks > 0) text += fmt::format(",\"ranks\":{}", r.ranks);
  if (r.parameter_hashes)
    text += fmt::format(",\"{}\":", kParameterHashes) + hash_list(*r.parameter_hashes);
  return text;
}

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw core::Error(core::ErrorKind::kData, fmt::format("ledger {}: {}", path, what));
}

bool is_hash(const nlohmann::ordered_json& json, const char* key) {
  if (!json.contains(key) || !json[key].is_string()) return false;
  const std::string text = json[key].get<std::string>();
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

LedgerLine parse_line(const std::string& path, std::size_t number, const std::string& line,
                      std::uint64_t previous) {
  const auto json = nlohmann::ordered_json::parse(line, nullptr, false);
  const std::size_t hash_at = line.rfind(kHashKey);
  if (json.is_discarded() || !json.is_object() || hash_at == std::string::npos ||
      !json.contains("step") || !json["step"].is_number_integer() || !is_hash(json, "hash")) {
    fail(path, fmt::format("line {} is not a ledger record", number));
  }
  LedgerLine parsed;
  parsed.step = json["step"].get<std::int64_t>();
  parsed.hash = core::parse_hex64(json["hash"].get<std::string>());
  const std::uint64_t expected = core::hash64(std::string_view(line).substr(0, hash_at), previous);
  if (parsed.hash != expected) {
    fail(path, fmt::format("line {} (step {}): the chain is broken: expected hash {}, found {}; "
                           "the line or one before it was altered",
                           number, parsed.step, core::to_hex(expected), core::to_hex(parsed.hash)));
  }
  for (const auto& [key, value] : json.items()) {
    if (key != "hash") parsed.fields.emplace_back(key, value.dump());
  }
  return parsed;
}

}  // namespace

std::string Ledger::append(const LedgerRecord& record) {
  const std::string text = canonical_text(record);
  head_ = core::hash64(text, head_);
  if (!file_.is_open()) return "";
  std::string line = fmt::format("{}{}{}\"}}", text, kHashKey, core::to_hex(head_));
  file_.write(line + "\n");
  return line;
}

std::vector<LedgerLine> read_ledger(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path, fmt::format("cannot open: {}", std::strerror(errno)));
  std::vector<LedgerLine> lines;
  std::uint64_t previous = 0;
  std::string line;
  std::size_t number = 0;
  while (std::getline(in, line)) {
    ++number;
    if (in.eof()) break;  // no newline: the run was killed while writing it
    lines.push_back(parse_line(path, number, line, previous));
    previous = lines.back().hash;
  }
  return lines;
}

bool ledger_has_passed(const std::string& path, std::uint64_t bytes, std::uint64_t head) {
  if (bytes == 0) return head == 0;
  const std::string end = fmt::format("{}{}\"}}\n", kHashKey, core::to_hex(head));
  if (bytes < end.size()) return false;
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path, fmt::format("cannot open: {}", std::strerror(errno)));
  std::string found(end.size(), ' ');
  in.seekg(static_cast<std::streamoff>(bytes - end.size()));
  in.read(found.data(), static_cast<std::streamsize>(found.size()));
  return in && found == end;
}

const std::string* LedgerLine::find(const std::string& name) const {
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const auto& field) { return field.first == name; });
  return found == fields.end() ? nullptr : &found->second;
}

std::optional<LedgerDifference> first_difference(const std::vector<LedgerLine>& first,
                                                 const std::vector<LedgerLine>& second) {
  for (std::size_t i = 0; i < std::min(first.size(), second.size()); ++i) {
    for (const LedgerLine* names : {&first[i], &second[i]}) {
      for (const auto& [name, value] : names->fields) {
        const std::string* left = first[i].find(name);
        const std::string* right = second[i].find(name);
        if (left != nullptr && right != nullptr && *left == *right) continue;
        if (name == kParameterHashes && (left == nullptr || right == nullptr)) continue;
        const std::string absent = "absent";
        return LedgerDifference{first[i].step, name, left != nullptr ? *left : absent,
                                right != nullptr ? *right : absent};
      }
    }
  }
  return std::nullopt;
}

}  // namespace lockstep::runtime
