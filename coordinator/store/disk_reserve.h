#pragma once

#include <cstdint>
#include <filesystem>

namespace lockstep::coordinator {

// Room on the disk that a file keeps occupied, for what must still be written when there is no other:
// the ends of attempts, cancels and pauses.
class DiskReserve {
 public:
  // A file that is there from an earlier time is used.
  explicit DiskReserve(std::filesystem::path file);

  // Whether the room is there. Also true where none can be reserved for another reason than a full
  // disk: then nothing is lost by going on without.
  bool held() const { return held_; }
  // Gives the room away.
  void release() noexcept;
  // Occupies it, if the disk has some more than that; with `any`, also less than all of it. What
  // held() is then.
  bool make(bool any = false) noexcept;

  // At most this, and an eighth of the file system.
  static constexpr std::int64_t kLargest = std::int64_t{16} << 20;

 private:
  const std::filesystem::path file_;
  bool held_ = false;
};

}  // namespace lockstep::coordinator
