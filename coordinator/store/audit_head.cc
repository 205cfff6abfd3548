#include "coordinator/store/audit_head.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "coordinator/model/secrets.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::size_t kPlaceBytes = 512;
constexpr int kVersion = 1;

std::string signature_of(const std::string& key, const nlohmann::json& head) {
  const Sha256 hash = hmac_sha256(key, head.dump());
  return base64url({reinterpret_cast<const char*>(hash.data()), hash.size()});
}

}  // namespace

AuditHeadFile::AuditHeadFile(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "audit.head";
  had_key_ = std::filesystem::exists(directory / "audit.key");
  key_ = load_or_make_key(directory / "audit.key");
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file_ < 0) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("{}: {}", path.string(), std::strerror(errno)));
  }
  for (int place = 0; place < 2; ++place) {
    const auto read = read_place(place);
    if (!read || read->number <= number_) continue;
    newest_ = read->head;
    number_ = read->number;
  }
}

AuditHeadFile::~AuditHeadFile() {
  if (file_ >= 0) ::close(file_);
}

std::string AuditHeadFile::signed_text(const Place& place) const {
  nlohmann::json value = {{"version", kVersion},
                          {"number", place.number},
                          {"sequence", place.head.sequence},
                          {"hash", place.head.hash},
                          {"event", place.head.event}};
  value["signature"] = signature_of(key_, value);
  std::string text = value.dump();
  text.resize(kPlaceBytes - 1, ' ');
  return text + "\n";
}

std::optional<AuditHeadFile::Place> AuditHeadFile::read_place(int place) const {
  std::string text(kPlaceBytes, '\0');
  if (::pread(file_, text.data(), text.size(), place * static_cast<::off_t>(kPlaceBytes)) !=
      static_cast<::ssize_t>(text.size())) {
    return std::nullopt;
  }
  nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (!value.is_object() || !value.contains("signature")) return std::nullopt;
  try {
    const std::string signature = value.at("signature");
    value.erase("signature");
    if (!equal_in_constant_time(signature, signature_of(key_, value))) return std::nullopt;
    return Place{value.at("number"), {value.at("sequence"), value.at("hash"), value.at("event")}};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

bool AuditHeadFile::write(const AuditHead& head) noexcept {
  try {
    if (newest_ == head) return true;
    const Place place{number_ + 1, head};
    const std::string text = signed_text(place);
    const auto offset = (place.number % 2) * static_cast<::off_t>(kPlaceBytes);
    if (::pwrite(file_, text.data(), text.size(), offset) != static_cast<::ssize_t>(text.size())) {
      return false;
    }
    number_ = place.number;
    newest_ = head;
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace lockstep::coordinator
