#include "runtime/report/line_follower.h"

#include <algorithm>
#include <optional>
#include <span>

#include "core/input_file.h"

namespace lockstep::runtime {
namespace {

constexpr std::size_t kTailBytes = 256;

bool holds(const core::InputFile& file, std::uint64_t end, const std::string& tail) {
  if (file.size() < end) return false;
  std::string found(tail.size(), ' ');
  file.read(end - tail.size(), std::as_writable_bytes(std::span(found)));
  return found == tail;
}

}  // namespace

Followed LineFollower::follow(const std::function<void()>& restart,
                              const std::function<void(std::string_view)>& visit) {
  std::error_code failure;
  std::optional<core::InputFile> file;
  if (std::filesystem::exists(path_, failure)) file.emplace(path_);
  const bool restarted = offset_ > 0 && (!file || !holds(*file, offset_, tail_));
  if (restarted) {
    restart();
    offset_ = 0;
    lines_ = 0;
    tail_.clear();
  }
  const std::uint64_t begin = offset_;
  std::string partial;
  if (file) {
    file->visit(begin, file->size(), [&](std::span<const std::byte> piece) {
      std::string_view text(reinterpret_cast<const char*>(piece.data()), piece.size());
      for (std::size_t end = 0; (end = text.find('\n')) != std::string_view::npos;
           text.remove_prefix(end + 1)) {
        std::string_view line = text.substr(0, end);
        if (!partial.empty()) line = partial.append(line);
        visit(line);
        ++lines_;
        offset_ += line.size() + 1;
        tail_.assign(line.substr(line.size() - std::min(line.size(), kTailBytes))).push_back('\n');
        partial.clear();
      }
      partial.append(text);
    });
  }
  if (restarted) return Followed::kRestarted;
  return offset_ == begin ? Followed::kNothing : Followed::kAppended;
}

}  // namespace lockstep::runtime
