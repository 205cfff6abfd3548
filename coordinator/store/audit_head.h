#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace lockstep::coordinator {

// How far the audit log had come, and the events with it.
struct AuditHead {
  std::int64_t sequence = 0;  // of the newest entry
  std::string hash{};         // of that entry
  std::int64_t event = 0;     // newest sequence of the server's events

  bool operator==(const AuditHead&) const = default;
};

// The head of the audit log in a file of its own, outside the store: DIRECTORY/audit.head, signed
// with the key in DIRECTORY/audit.key (HMAC-SHA256). A log whose end was cut off no longer reaches
// it. Two places are written by turns, so that one of them is always whole; nothing has to be
// allocated for that, so it works on a full disk.
class AuditHeadFile {
 public:
  // Makes the key if there is none. Throws core::Error(kConfig) if it cannot be read or made.
  explicit AuditHeadFile(const std::filesystem::path& directory);
  ~AuditHeadFile();
  AuditHeadFile(const AuditHeadFile&) = delete;
  AuditHeadFile& operator=(const AuditHeadFile&) = delete;

  // Whether there was a key, but no head with a right signature: it was removed or altered.
  bool was_lost() const { return had_key_ && !newest_; }
  const std::optional<AuditHead>& newest() const { return newest_; }

  // False if it could not be written: then the file tells of an older one, which is no lie.
  bool write(const AuditHead& head) noexcept;

 private:
  struct Place {
    std::int64_t number = 0;  // rises with every writing
    AuditHead head;
  };
  std::optional<Place> read_place(int place) const;
  std::string signed_text(const Place& place) const;

  bool had_key_ = false;
  std::string key_;
  int file_ = -1;
  std::int64_t number_ = 0;  // of the newest; its place is the number modulo 2
  std::optional<AuditHead> newest_;
};

}  // namespace lockstep::coordinator
