#include "coordinator/engine/run_ids.h"

#include <algorithm>

namespace lockstep::coordinator {
namespace {

constexpr char kDigits[] = "0123456789abcdefghjkmnpqrstvwxyz";  // no i, l, o, u: not misread
constexpr std::size_t kLength = 26;
constexpr std::size_t kTimeDigits = 10;

// The next text of the same length in the order of the digits.
void increment(std::string& text) {
  const std::string digits(kDigits);
  for (std::size_t i = text.size(); i-- > 0;) {
    const std::size_t value = digits.find(text[i]);
    if (value + 1 < digits.size()) {
      text[i] = digits[value + 1];
      return;
    }
    text[i] = digits[0];
  }
}

}  // namespace

std::string RunIds::next(std::int64_t now_ns) {
  std::string id(kLength, '0');
  std::uint64_t milliseconds = static_cast<std::uint64_t>(now_ns) / 1'000'000;
  for (std::size_t i = kTimeDigits; i-- > 0; milliseconds >>= 5) {
    id[i] = kDigits[milliseconds & 31];
  }
  for (std::size_t i = kTimeDigits; i < kLength; ++i)
    id[i] = kDigits[random_() & 31];
  if (id <= last_) {
    id = last_;
    increment(id);
  }
  last_ = id;
  return id;
}

void RunIds::known(const std::string& id) {
  if (id.size() == kLength) last_ = std::max(last_, id);
}

}  // namespace lockstep::coordinator
