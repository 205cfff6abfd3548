#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

// Words, times and tables as the job-control commands show and take them.
namespace lockstep::coordinator {

// What a terminal would act on is shown instead: control bytes but tab and newline, and bytes that
// are not UTF-8, as \xNN; U+0080 to U+009F and the characters that turn the direction of writing,
// as \u{NNNN}. So what a run prints cannot move the cursor, set a title or hide text.
std::string escape_for_terminal(std::string_view bytes);

// "90s", "15m", "2h", "1d", "1h30m", "1.5s", or seconds: "90". Throws core::Error(kConfig).
google::protobuf::Duration parse_duration(const std::string& text);
// A duration: that long before `now_ns`. Or a moment as RFC 3339: "2026-11-21T09:30:00Z". Throws
// core::Error(kConfig).
google::protobuf::Timestamp parse_moment(const std::string& text, std::int64_t now_ns);

std::int64_t to_ns(const google::protobuf::Timestamp& time);
google::protobuf::Timestamp to_timestamp(std::int64_t ns);
google::protobuf::Duration to_duration(std::int64_t ns);
std::int64_t now_ns();

// "12s", "3m20s", "2h05m", "4d03h": two units at most.
std::string format_duration(std::int64_t ns);
// "2026-11-21T09:30:00Z"; "-" for a time that is not set.
std::string format_time(const google::protobuf::Timestamp& time);

// One line of proto JSON, with every field, set or not, so that scripts find what they look for.
std::string to_json(const google::protobuf::Message& message);

// Columns as wide as they need be; cells are escaped. On a terminal a line ends at `width`.
class Table {
 public:
  explicit Table(std::vector<std::string> header);

  void add(std::vector<std::string> row);
  void print(std::ostream& out, std::optional<int> width) const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the header is the first
};

// The width of the terminal that standard output is; none if it is something else.
std::optional<int> terminal_width();

}  // namespace lockstep::coordinator
