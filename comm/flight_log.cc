#include "comm/flight_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "comm/flight_format.h"

namespace lockstep::comm {

namespace {

constexpr std::uint32_t kMostRecords = 65536;
constexpr int kMostRanks = 1 << 20;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", path, what));
}

std::string read_bytes(const std::string& path) {
  constexpr std::uintmax_t kMostBytes =
      sizeof(FlightFileHeader) + kMostRecords * sizeof(FlightFileRecord);
  std::error_code failure;
  const std::uintmax_t size = std::filesystem::file_size(path, failure);
  if (failure) refuse(path, "cannot read the flight file: " + failure.message());
  if (size < sizeof(FlightFileHeader) || size > kMostBytes) {
    refuse(path,
           fmt::format("not a flight file, or one that was cut: {} bytes, expected {} or more",
                       size, sizeof(FlightFileHeader)));
  }
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
    refuse(path, fmt::format("cannot read {} bytes of the flight file", size));
  }
  return bytes;
}

// Text of a file goes to a terminal and into JSON.
std::string printable(const char* text, std::size_t limit) {
  std::string result(text, strnlen(text, limit));
  for (char& c : result) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return result;
}

void check_header(const std::string& path, const FlightFileHeader& header, std::size_t size) {
  if (header.magic != kFlightMagic) {
    refuse(path,
           "not a flight file, or one that was never finished: it does not begin with "
           "LSFLIGHT");
  }
  if (header.version != kFlightVersion) {
    refuse(path, fmt::format("flight file of version {}; this program reads version {}: use the "
                             "lockstep that wrote it",
                             header.version, kFlightVersion));
  }
  if (header.header_bytes != sizeof(FlightFileHeader) ||
      header.record_bytes != sizeof(FlightFileRecord) || header.record_count == 0 ||
      header.record_count > kMostRecords) {
    refuse(path, fmt::format("damaged flight file: header of {} bytes, {} records of {} bytes; "
                             "expected {}, up to {}, {}",
                             header.header_bytes, header.record_count, header.record_bytes,
                             sizeof(FlightFileHeader), kMostRecords, sizeof(FlightFileRecord)));
  }
  const std::size_t expected =
      sizeof(FlightFileHeader) + header.record_count * sizeof(FlightFileRecord);
  if (size != expected) {
    refuse(path, fmt::format("flight file of {} bytes, expected {}: it was cut or added to", size,
                             expected));
  }
  if (header.world_size < 1 || header.world_size > kMostRanks || header.rank < 0 ||
      header.rank >= header.world_size) {
    refuse(path, fmt::format("damaged flight file: it says rank {} of {}", header.rank,
                             header.world_size));
  }
}

bool is_whole(const FlightFileRecord& record, std::uint64_t place, std::uint32_t count) {
  const bool state_known = record.state == static_cast<std::uint32_t>(FlightState::kEntered) ||
                           record.state == static_cast<std::uint32_t>(FlightState::kCompleted);
  return record.sequence > 0 && record.sequence == record.sequence_again &&
         record.sequence % count == place && state_known && record.collective < kCollectives;
}

FlightEntry entry_of(const FlightFileRecord& record) {
  FlightEntry entry;
  entry.sequence = record.sequence;
  entry.collective = static_cast<Collective>(record.collective);
  entry.bytes = record.bytes;
  entry.label = printable(record.label, kFlightLabelBytes);
  entry.completed = record.state == static_cast<std::uint32_t>(FlightState::kCompleted);
  entry.entered_ns = record.entered_ns;
  entry.completed_ns = entry.completed ? record.completed_ns : 0;
  return entry;
}

// In doubles: a damaged file may hold any number.
double seconds_between(std::int64_t begin_ns, std::int64_t end_ns) {
  return (static_cast<double>(end_ns) - static_cast<double>(begin_ns)) * 1e-9;
}

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "));
}

const char* verb(const std::vector<int>& ranks, const char* one, const char* more) {
  return ranks.size() == 1 ? one : more;
}

std::string completed_text(const FlightLog& log) {
  const FlightEntry* last = log.last_completed();
  return last == nullptr ? "completed nothing" : "last completed " + last->name();
}

// The first collective that ranks entered under one number as different ones.
std::string first_mismatch(std::span<const FlightLog> logs) {
  std::vector<FlightEntry> all;
  for (const FlightLog& log : logs)
    all.insert(all.end(), log.entries.begin(), log.entries.end());
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  const auto differs = [](const FlightEntry& a, const FlightEntry& b) {
    return a.sequence == b.sequence && a.name() != b.name();
  };
  const auto at = std::adjacent_find(all.begin(), all.end(), differs);
  if (at == all.end()) return "";

  struct Group {
    std::string name;
    std::vector<int> ranks;
  };
  std::vector<Group> groups;
  for (const FlightLog& log : logs) {
    const FlightEntry* entry = log.find(at->sequence);
    if (entry == nullptr) continue;
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& g) { return g.name == entry->name(); });
    if (group == groups.end()) group = groups.insert(groups.end(), {entry->name(), {}});
    group->ranks.push_back(log.rank);
  }
  // The minority is the suspect, so it comes first.
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.ranks.size() < b.ranks.size(); });
  std::string text;
  for (const Group& group : groups) {
    text += fmt::format("{}{} entered {}", text.empty() ? "" : " where ", ranks_text(group.ranks),
                        group.name);
  }
  return text;
}

// Who has not entered the first collective that not everyone has entered.
std::string who_is_behind(std::span<const FlightLog> logs) {
  std::uint64_t least = logs.front().last_entered();
  for (const FlightLog& log : logs)
    least = std::min(least, log.last_entered());
  const FlightEntry* waited = nullptr;  // the first one after it that anybody knows
  double seconds = 0.0;
  std::vector<int> behind;
  std::vector<int> waiting;
  std::string details;
  for (const FlightLog& log : logs) {
    if (log.last_entered() == least) {
      behind.push_back(log.rank);
      details +=
          fmt::format("; {} {}", behind.size() == 1 ? "it" : fmt::format("rank {}", log.rank),
                      completed_text(log));
      continue;
    }
    waiting.push_back(log.rank);
    const auto next = std::find_if(log.entries.begin(), log.entries.end(),
                                   [&](const FlightEntry& e) { return e.sequence > least; });
    if (waited == nullptr || next->sequence < waited->sequence) waited = &*next;
    seconds = std::max(seconds, seconds_between(next->entered_ns, log.seen_ns));
  }
  if (waited == nullptr) return "";
  if (behind.size() > 1) details.replace(2, 2, fmt::format("rank {}", behind.front()));
  return fmt::format("{} {} not entered {}{}; {} {} in it since {:.1f} s", ranks_text(behind),
                     verb(behind, "has", "have"), waited->name(), details, ranks_text(waiting),
                     verb(waiting, "waits", "wait"), seconds);
}

// All have entered the same; some have not finished it.
std::string who_is_unfinished(std::span<const FlightLog> logs) {
  std::vector<int> ranks;
  const FlightEntry* first = nullptr;
  for (const FlightLog& log : logs) {
    const FlightEntry* pending = log.first_pending();
    if (pending == nullptr) continue;
    ranks.push_back(log.rank);
    if (first == nullptr || pending->sequence < first->sequence) first = pending;
  }
  if (first == nullptr) return "";
  return fmt::format("all ranks have entered {}; {} {} not completed {}", first->name(),
                     ranks_text(ranks), verb(ranks, "has", "have"),
                     logs.size() == 1 ? "it" : "it or a later one");
}

}  // namespace

std::string FlightEntry::name() const {
  return fmt::format("{} #{} ({})", name_of(collective), sequence, label);
}

std::uint64_t FlightLog::last_entered() const {
  return entries.empty() ? 0 : entries.back().sequence;
}

const FlightEntry* FlightLog::last_completed() const {
  const auto at = std::find_if(entries.rbegin(), entries.rend(),
                               [](const FlightEntry& e) { return e.completed; });
  return at == entries.rend() ? nullptr : &*at;
}

const FlightEntry* FlightLog::first_pending() const {
  const auto at = std::find_if(entries.begin(), entries.end(),
                               [](const FlightEntry& e) { return !e.completed; });
  return at == entries.end() ? nullptr : &*at;
}

const FlightEntry* FlightLog::find(std::uint64_t sequence) const {
  const auto at = std::find_if(entries.begin(), entries.end(),
                               [&](const FlightEntry& e) { return e.sequence == sequence; });
  return at == entries.end() ? nullptr : &*at;
}

FlightLog read_flight_log(const std::string& path) {
  const std::string bytes = read_bytes(path);
  FlightFileHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  check_header(path, header, bytes.size());
  FlightLog log;
  log.rank = header.rank;
  log.world_size = header.world_size;
  log.attempt = header.attempt;
  log.pid = header.pid;
  log.host = printable(header.host, kFlightHostBytes);
  log.opened_ns = header.opened_ns;
  log.seen_ns = header.seen_ns;
  constexpr FlightFileRecord kNeverUsed{};
  for (std::uint64_t place = 0; place < header.record_count; ++place) {
    FlightFileRecord record;
    std::memcpy(&record, bytes.data() + sizeof(header) + place * sizeof(record), sizeof(record));
    if (std::memcmp(&record, &kNeverUsed, sizeof(record)) == 0) continue;
    if (is_whole(record, place, header.record_count)) {
      log.entries.push_back(entry_of(record));
    } else {
      ++log.torn;
    }
  }
  std::sort(log.entries.begin(), log.entries.end(),
            [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  return log;
}

std::vector<std::string> diagnose(std::span<const FlightLog> logs) {
  std::vector<std::string> findings;
  if (logs.empty()) return findings;
  findings.push_back(first_mismatch(logs));
  findings.push_back(who_is_behind(logs));
  if (findings.back().empty()) findings.push_back(who_is_unfinished(logs));
  std::erase(findings, "");
  return findings;
}

}  // namespace lockstep::comm
