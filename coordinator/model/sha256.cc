#include "coordinator/model/sha256.h"

#include <openssl/evp.h>
#include <sys/random.h>

#include <array>
#include <vector>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

std::string to_hex_digits(const unsigned char* bytes, std::size_t count) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * count);
  for (std::size_t i = 0; i < count; ++i) {
    text.push_back(kDigits[bytes[i] >> 4]);
    text.push_back(kDigits[bytes[i] & 15]);
  }
  return text;
}

}  // namespace

std::string sha256_hex(std::string_view text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  if (EVP_Digest(text.data(), text.size(), digest.data(), &length, EVP_sha256(), nullptr) != 1) {
    throw core::Error(core::ErrorKind::kInternal, "OpenSSL has no SHA-256");
  }
  return to_hex_digits(digest.data(), length);
}

std::string random_hex(int bytes) {
  std::vector<unsigned char> buffer(static_cast<std::size_t>(bytes));
  if (::getrandom(buffer.data(), buffer.size(), 0) != static_cast<ssize_t>(buffer.size())) {
    throw core::Error(core::ErrorKind::kInternal, "the system gives no random numbers");
  }
  return to_hex_digits(buffer.data(), buffer.size());
}

}  // namespace lockstep::coordinator
