#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

// The few uses of cryptography beside hashes (sha256.h), all from OpenSSL.
namespace lockstep::coordinator {

using Sha256 = std::array<unsigned char, 32>;

Sha256 hmac_sha256(std::string_view key, std::string_view message);

// Takes the same time wherever the two differ.
bool equal_in_constant_time(std::string_view a, std::string_view b);

// `count` bytes from the system's generator; throws core::Error(kInternal).
std::string random_bytes(std::size_t count);

// Base64 for URLs (RFC 4648 section 5), without padding. decode gives "" for what is none.
std::string base64url(std::string_view bytes);
std::string decode_base64url(std::string_view text);

// The key in `file` (32 bytes, mode 0600), made on the first call. Throws core::Error(kConfig) if
// it cannot be read or made, or if others may read it.
std::string load_or_make_key(const std::filesystem::path& file);

}  // namespace lockstep::coordinator
