#include "coordinator/client/text.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ostream>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

using google::protobuf::util::TimeUtil;

constexpr std::int64_t kSecondNs = 1'000'000'000;

// The character that begins at `at` and its length in bytes; length 0: not UTF-8.
struct Character {
  char32_t value = 0;
  std::size_t length = 0;
};

Character decode(std::string_view bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {first, 1};
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || at + length > bytes.size()) return {};
  char32_t value = first & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {};
    value = value << 6 | (byte(at + i) & 0x3FU);
  }
  constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kLeast[length] || value > 0x10FFFF || surrogate) return {};
  return {value, length};
}

bool acts_on_terminal(char32_t c) {
  if (c == '\n' || c == '\t') return false;
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x200E || c == 0x200F ||
         (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

// Seconds of one unit; 0: no unit.
double unit_seconds(std::string_view unit) {
  if (unit == "ms") return 1e-3;
  if (unit == "s" || unit.empty()) return 1.0;
  if (unit == "m") return 60.0;
  if (unit == "h") return 3600.0;
  if (unit == "d") return 86400.0;
  return 0.0;
}

// Seconds, negative: not a duration.
double duration_seconds(std::string_view text) {
  double seconds = 0.0;
  bool has_unit = true;
  int parts = 0;
  if (text.empty()) return -1.0;
  while (!text.empty()) {
    double number = 0.0;
    const auto result =
        std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
    if (result.ec != std::errc() || number < 0.0 || !has_unit) return -1.0;
    text.remove_prefix(static_cast<std::size_t>(result.ptr - text.data()));
    const std::size_t next = std::min(text.find_first_of("0123456789."), text.size());
    const double unit = unit_seconds(text.substr(0, next));
    if (unit == 0.0) return -1.0;
    has_unit = next > 0;
    seconds += number * unit;
    ++parts;
    text.remove_prefix(next);
  }
  // "1h30" could mean minutes.
  if (!has_unit && parts > 1) return -1.0;
  return seconds < 1e10 ? seconds : -1.0;
}

// Columns that a text takes on a terminal, near enough: characters.
std::size_t text_width(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string cut(const std::string& line, std::size_t width) {
  if (text_width(line) <= width) return line;
  std::string shorter;
  std::size_t characters = 0;
  for (const char c : line) {
    const bool begins = (c & 0xC0) != 0x80;
    if (begins && ++characters > width) break;
    shorter += c;
  }
  return shorter;
}

}  // namespace

std::string escape_for_terminal(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size();) {
    const Character character = decode(bytes, at);
    if (character.length == 0 || (character.length == 1 && acts_on_terminal(character.value))) {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(bytes[at]));
      ++at;
      continue;
    }
    if (acts_on_terminal(character.value)) {
      text += fmt::format("\\u{{{:04x}}}", static_cast<std::uint32_t>(character.value));
    } else {
      text += bytes.substr(at, character.length);
    }
    at += character.length;
  }
  return text;
}

google::protobuf::Timestamp to_timestamp(std::int64_t ns) {
  return TimeUtil::NanosecondsToTimestamp(ns);
}

google::protobuf::Duration to_duration(std::int64_t ns) {
  return TimeUtil::NanosecondsToDuration(ns);
}

google::protobuf::Duration parse_duration(const std::string& text) {
  const double seconds = duration_seconds(text);
  if (seconds < 0.0) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("'{}': expected a duration such as 90s, 15m, 2h, 1h30m", text));
  }
  return to_duration(std::llround(seconds * 1e9));
}

google::protobuf::Timestamp parse_moment(const std::string& text, std::int64_t now) {
  google::protobuf::Timestamp time;
  if (const double ago = duration_seconds(text); ago >= 0.0) {
    return TimeUtil::NanosecondsToTimestamp(now - std::llround(ago * 1e9));
  }
  if (TimeUtil::FromString(text, &time)) return time;
  throw core::Error(core::ErrorKind::kConfig,
                    fmt::format("'{}': expected how long ago (90s, 15m, 2h), or a moment such as "
                                "2026-11-21T09:30:00Z",
                                text));
}

std::int64_t to_ns(const google::protobuf::Timestamp& time) {
  return TimeUtil::TimestampToNanoseconds(time);
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string format_duration(std::int64_t ns) {
  const std::int64_t seconds = std::max<std::int64_t>(ns, 0) / kSecondNs;
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m{:02}s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{}h{:02}m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{}d{:02}h", seconds / 86400, seconds / 3600 % 24);
}

std::string format_time(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "-";
  google::protobuf::Timestamp whole;
  whole.set_seconds(time.seconds());
  return TimeUtil::ToString(whole);
}

std::string to_json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) {
    throw core::Error(core::ErrorKind::kInternal,
                      "an answer has no JSON form: " + std::string(status.message()));
  }
  return json;
}

Table::Table(std::vector<std::string> header) {
  rows_.push_back(std::move(header));
}

void Table::add(std::vector<std::string> row) {
  for (std::string& cell : row) {
    cell = escape_for_terminal(cell);
    std::replace(cell.begin(), cell.end(), '\n', ' ');
    std::replace(cell.begin(), cell.end(), '\t', ' ');
  }
  rows_.push_back(std::move(row));
}

void Table::print(std::ostream& out, std::optional<int> width) const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const std::vector<std::string>& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], text_width(row[i]));
  }
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line += std::string(widths[i] + 2 - text_width(row[i]), ' ');
    }
    out << (width ? cut(line, static_cast<std::size_t>(*width)) : line) << "\n";
  }
}

std::optional<int> terminal_width() {
  if (isatty(STDOUT_FILENO) == 0) return std::nullopt;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace lockstep::coordinator
