#include "coordinator/server/page_token.h"

#include "coordinator/model/secrets.h"

namespace lockstep::coordinator {
namespace {

constexpr char kVersion = 1;
constexpr std::size_t kSignatureBytes = 32;
constexpr std::size_t kIdBytes = 26;

// Each part behind its length, so that no two different lists of parts read the same.
void append_part(std::string& message, std::string_view part) {
  message += std::to_string(part.size());
  message += ':';
  message += part;
}

}  // namespace

std::string PageTokens::signature(std::string_view payload, const PageScope& scope) const {
  std::string message = "page token";
  for (const std::string_view part : {payload, scope.filter, scope.order_by, scope.caller})
    append_part(message, part);
  const Sha256 hash = hmac_sha256(key_, message);
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

std::string PageTokens::make(const PagePlace& place, const PageScope& scope) const {
  std::string payload(1, kVersion);
  payload += place.id;  // of fixed length
  payload += place.key;
  return base64url(signature(payload, scope) + payload);
}

std::optional<PagePlace> PageTokens::read(std::string_view token, const PageScope& scope) const {
  const std::string bytes = decode_base64url(token);
  if (bytes.size() < kSignatureBytes + 1 + kIdBytes) return std::nullopt;
  const std::string_view signed_bytes = std::string_view(bytes).substr(kSignatureBytes);
  const std::string expected = signature(signed_bytes, scope);
  // Written again, it must be the same text: base64 has several texts for some bytes.
  if (!equal_in_constant_time(expected, std::string_view(bytes).substr(0, kSignatureBytes)) ||
      signed_bytes[0] != kVersion || base64url(bytes) != token) {
    return std::nullopt;
  }
  return PagePlace{std::string(signed_bytes.substr(1 + kIdBytes)),
                   std::string(signed_bytes.substr(1, kIdBytes))};
}

}  // namespace lockstep::coordinator
