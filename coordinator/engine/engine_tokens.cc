#include <algorithm>
#include <regex>

#include <fmt/format.h>

#include "coordinator/engine/engine_core.h"
#include "coordinator/model/run_json.h"
#include "coordinator/model/sha256.h"

// Tokens of people and programs. Only hashes are kept.
namespace lockstep::coordinator {
namespace {

constexpr int kSecretBytes = 32;
constexpr const char* kSecretPrefix = "lockstep_";  // found by those who search for leaked secrets

std::vector<std::string> split(const std::string& scopes) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin < scopes.size()) {
    const std::size_t comma = std::min(scopes.find(',', begin), scopes.size());
    parts.push_back(scopes.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return parts;
}

TokenInfo info_of(const TokenRow& row) {
  return {row.name, split(row.scopes), row.create_time_ns, row.expire_time_ns, row.revoked};
}

std::string join_scopes(std::vector<std::string> scopes) {
  std::sort(scopes.begin(), scopes.end());
  scopes.erase(std::unique(scopes.begin(), scopes.end()), scopes.end());
  std::string joined;
  for (const std::string& scope : scopes)
    joined += (joined.empty() ? "" : ",") + scope;
  return joined;
}

void check_token(const CreateTokenRequest& request) {
  static const std::regex kName("[a-z][a-z0-9-]{0,62}");
  static const std::vector<std::string> kScopes = {"admin", "operate", "read", "submit"};
  EngineError error(ErrorCode::kInvalidArgument, "INVALID_FIELD", "the request is not valid");
  if (!std::regex_match(request.name, kName) || request.name == "local") {
    error.violates("name", "must match [a-z][a-z0-9-]{0,62} and not be 'local'");
  }
  if (request.scopes.empty()) error.violates("scopes", "at least one is needed");
  for (const std::string& scope : request.scopes) {
    if (std::find(kScopes.begin(), kScopes.end(), scope) == kScopes.end()) {
      error.violates("scopes", fmt::format("'{}' is none of read, submit, operate, admin", scope));
    }
  }
  if (request.lifetime_ns < 0) error.violates("lifetime", "must not be negative");
  if (!error.violations().empty()) throw error;
}

std::string view_of(const TokenRow& row) {
  return canonical_text(
      {{"scopes", row.scopes}, {"expire_time_ns", row.expire_time_ns}, {"revoked", row.revoked}});
}

}  // namespace

CreatedToken Engine::create_token(const CreateTokenRequest& request, const Caller& caller) {
  check_token(request);
  const Call call = {"CreateToken", caller, request.request_id,
                     digest_of({request.name, request.scopes, request.lifetime_ns})};
  CreatedToken created;
  created.secret = kSecretPrefix + random_hex(kSecretBytes);
  TokenRow row;
  row.name = request.name;
  row.hash = sha256_hex(created.secret);
  row.scopes = join_scopes(request.scopes);
  row.create_time_ns = core_->now();
  if (request.lifetime_ns > 0) row.expire_time_ns = row.create_time_ns + request.lifetime_ns;
  const std::lock_guard lock(core_->write_mutex);
  const std::lock_guard tokens_lock(core_->token_mutex);
  // Also when this request_id was served before: its secret cannot be shown again.
  if (core_->tokens.contains(row.name)) {
    throw EngineError(ErrorCode::kAlreadyExists, "TOKEN_EXISTS",
                      fmt::format("there is a token '{}' already, and names are not used twice; "
                                  "a secret that was lost cannot be shown again",
                                  row.name));
  }
  StoreWrite write = core_->records_of(call, row.name, "", view_of(row));
  write.tokens.push_back(row);
  core_->store_write(write);
  core_->tokens[row.name] = row;
  created.token = info_of(row);
  return created;
}

std::vector<TokenInfo> Engine::tokens() const {
  const std::lock_guard lock(core_->token_mutex);
  std::vector<TokenInfo> all;
  for (const auto& [name, row] : core_->tokens)
    all.push_back(info_of(row));
  return all;
}

TokenInfo Engine::revoke_token(const std::string& name, const std::string& request_id,
                               const Caller& caller) {
  const Call call = {"RevokeToken", caller, request_id, digest_of({name})};
  const std::lock_guard lock(core_->write_mutex);
  const std::lock_guard tokens_lock(core_->token_mutex);
  const auto found = core_->tokens.find(name);
  if (found == core_->tokens.end()) {
    throw EngineError(ErrorCode::kNotFound, "TOKEN_NOT_FOUND",
                      fmt::format("there is no token '{}'", name));
  }
  if (!core_->served_before(call)) {
    TokenRow row = found->second;
    row.revoked = true;
    StoreWrite write = core_->records_of(call, name, view_of(found->second), view_of(row));
    write.tokens.push_back(row);
    core_->store_write(write);
    found->second = row;
    ++core_->token_generation;
  }
  return info_of(found->second);
}

std::optional<TokenInfo> Engine::authenticate(const std::string& secret) const {
  const std::string hash = sha256_hex(secret);
  const std::int64_t now = core_->now();
  std::optional<TokenInfo> match;
  const std::lock_guard lock(core_->token_mutex);
  for (const auto& [name, row] : core_->tokens) {
    // All of them, and all of each: the time tells nothing of where they differ.
    unsigned int difference = row.hash.size() == hash.size() ? 0U : 1U;
    for (std::size_t i = 0; i < std::min(hash.size(), row.hash.size()); ++i) {
      difference |= static_cast<unsigned char>(hash[i]) ^ static_cast<unsigned char>(row.hash[i]);
    }
    const bool expired = row.expire_time_ns != 0 && row.expire_time_ns <= now;
    if (difference == 0 && !row.revoked && !expired) match = info_of(row);
  }
  return match;
}

std::int64_t Engine::token_generation() const {
  return core_->token_generation;
}

}  // namespace lockstep::coordinator
