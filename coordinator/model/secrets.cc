#include "coordinator/model/secrets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kKeyBytes = 32;
constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

[[noreturn]] void fail_file(const std::filesystem::path& file, const std::string& what) {
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("{}: expected a key of {} bytes that only its owner can read, {}; "
                                "remove the file and a new one is made",
                                file.string(), kKeyBytes, what));
}

// Whole or not at all: a new file becomes visible by link, so that two that start see one key.
void make_key(const std::filesystem::path& file) {
  const std::string temporary = fmt::format("{}.{}", file.string(), ::getpid());
  const int descriptor =
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) fail_file(file, std::string("cannot make it: ") + std::strerror(errno));
  const std::string key = random_bytes(kKeyBytes);
  const bool written =
      ::write(descriptor, key.data(), key.size()) == static_cast<::ssize_t>(key.size()) &&
      ::fsync(descriptor) == 0;
  const int error = errno;
  ::close(descriptor);
  const bool linked = written && (::link(temporary.c_str(), file.c_str()) == 0 || errno == EEXIST);
  const int link_error = errno;
  ::unlink(temporary.c_str());
  if (!linked) {
    fail_file(file, std::string("cannot write it: ") + std::strerror(written ? link_error : error));
  }
}

}  // namespace

Sha256 hmac_sha256(std::string_view key, std::string_view message) {
  Sha256 hash{};
  unsigned int size = 0;
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes_of(message),
           message.size(), hash.data(), &size) == nullptr ||
      size != hash.size()) {
    throw core::Error(core::ErrorKind::kInternal, "OpenSSL could not compute an HMAC");
  }
  return hash;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1) {
    throw core::Error(core::ErrorKind::kInternal, "the system gave no random bytes");
  }
  return bytes;
}

std::string base64url(std::string_view bytes) {
  std::string text;
  unsigned int buffer = 0;
  unsigned int bits = 0;
  for (const unsigned char byte : bytes) {
    buffer = (buffer << 8) | byte;
    for (bits += 8; bits >= 6; bits -= 6)
      text += kAlphabet[(buffer >> (bits - 6)) & 63];
  }
  if (bits > 0) text += kAlphabet[(buffer << (6 - bits)) & 63];
  return text;
}

std::string decode_base64url(std::string_view text) {
  std::string bytes;
  unsigned int buffer = 0;
  unsigned int bits = 0;
  for (const char c : text) {
    const std::size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) return "";
    buffer = (buffer << 6) | static_cast<unsigned int>(value);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes += static_cast<char>((buffer >> bits) & 255);
    }
  }
  return bytes;
}

std::string load_or_make_key(const std::filesystem::path& file) {
  int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0 && errno == ENOENT) {
    make_key(file);
    descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  }
  if (descriptor < 0) fail_file(file, std::string("cannot open it: ") + std::strerror(errno));
  std::string key(kKeyBytes + 1, '\0');
  struct stat info {};
  const bool known = ::fstat(descriptor, &info) == 0;
  const ::ssize_t got = ::read(descriptor, key.data(), key.size());
  ::close(descriptor);
  if (!known || got != static_cast<::ssize_t>(kKeyBytes)) {
    fail_file(file, fmt::format("found {} bytes", got));
  }
  if ((info.st_mode & 077) != 0) fail_file(file, "found one that others can read");
  key.resize(kKeyBytes);
  return key;
}

}  // namespace lockstep::coordinator
