#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lockstep::coordinator {

// The place behind which the next page begins.
struct PagePlace {
  std::string key;  // RunOrder::key_of
  std::string id;
};

// What a page token was given out for; it is good for nothing else.
struct PageScope {
  std::string_view filter;
  std::string_view order_by;
  std::string_view caller;
};

// Makes and reads page tokens: opaque, and authenticated by HMAC-SHA-256 with a key that survives
// restarts. A token grants nothing: who shows it must be allowed to list anyway.
class PageTokens {
 public:
  explicit PageTokens(std::string key) : key_(std::move(key)) {}

  std::string make(const PagePlace& place, const PageScope& scope) const;
  // Nothing for a token that was altered, or given out for another scope, or by another server.
  std::optional<PagePlace> read(std::string_view token, const PageScope& scope) const;

 private:
  std::string signature(std::string_view payload, const PageScope& scope) const;

  std::string key_;
};

}  // namespace lockstep::coordinator
