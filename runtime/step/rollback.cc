#include "runtime/step/rollback.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/json_number.h"
#include "runtime/files/write_file.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;

std::string path_in(const std::string& output) {
  return output + "/rollbacks.json";
}

[[noreturn]] void fail(const std::string& message) {
  throw core::Error(core::ErrorKind::kData, message);
}

// The first step of the unbroken row of left-out steps that ends with `last`; last + 1 if there is
// none.
std::int64_t row_before(const Rollbacks& rollbacks, std::int64_t last) {
  std::int64_t first = last + 1;
  while (is_left_out(rollbacks, first - 1))
    --first;
  return first;
}

std::int64_t row_after(const Rollbacks& rollbacks, std::int64_t first) {
  std::int64_t last = first - 1;
  while (is_left_out(rollbacks, last + 1))
    ++last;
  return last;
}

// The left-out steps as rows without gaps, in ascending order.
std::map<std::int64_t, std::int64_t> rows_of(const Rollbacks& rollbacks) {
  std::map<std::int64_t, std::int64_t> rows;
  for (const Rollback& each : rollbacks)
    rows[row_before(rollbacks, each.last)] = row_after(rollbacks, each.first);
  return rows;
}

Json to_json(const Rollbacks& rollbacks) {
  Json list = Json::array();
  for (const Rollback& each : rollbacks)
    list.push_back({{"to", each.to}, {"first", each.first}, {"last", each.last}});
  return list;
}

Rollbacks from_json(const Json& list) {
  Rollbacks rollbacks;
  for (const Json& each : list) {
    const Rollback rollback{core::whole_number<std::int64_t>(each.at("to")),
                            core::whole_number<std::int64_t>(each.at("first")),
                            core::whole_number<std::int64_t>(each.at("last"))};
    if (rollback.to < 0 || rollback.first <= rollback.to || rollback.last < rollback.first) {
      fail(fmt::format("expected a rollback with 0 <= to < first <= last, found {}", each.dump()));
    }
    rollbacks.push_back(rollback);
  }
  return rollbacks;
}

}  // namespace

bool is_left_out(const Rollbacks& rollbacks, std::int64_t step) {
  return std::any_of(rollbacks.begin(), rollbacks.end(),
                     [&](const Rollback& each) { return each.first <= step && step <= each.last; });
}

Rollback plan_rollback(const Rollbacks& before, std::int64_t to, std::int64_t broken,
                       std::int64_t spikes, bool spoilt) {
  constexpr std::int64_t kStepsThatMayFollow = 2;
  const std::int64_t first = broken - std::max<std::int64_t>(spikes, 1) + 1;
  const std::int64_t row = row_before(before, first - 1);
  const std::int64_t count = broken - row + 1;
  const bool may_follow = spikes > 0 ? row == first : count <= kStepsThatMayFollow;
  if (!spoilt && may_follow) return {to, first, broken};
  return {to, std::min(first, std::max(to + 1, row - count)), broken};
}

std::string refusal(const Rollbacks& before, const Rollback& next,
                    std::int64_t max_consecutive_skips) {
  const auto same = std::count_if(before.begin(), before.end(),
                                  [&](const Rollback& each) { return each.to == next.to; });
  if (same >= kMostRollbacksToOneCheckpoint) {
    return fmt::format("the run has gone back to step {} {} times already", next.to, same);
  }
  const std::int64_t first = row_before(before, next.first - 1);
  const std::int64_t last = row_after(before, next.last + 1);
  if (last - first + 1 >= max_consecutive_skips) {
    return fmt::format(
        "steps {} to {} would be left out, and {} steps in a row that are not applied end a run",
        first, last, max_consecutive_skips);
  }
  return "";
}

std::string describe_left_out(const Rollbacks& rollbacks) {
  std::string text;
  for (const auto& [first, last] : rows_of(rollbacks)) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", first);
    if (last > first) text += fmt::format(" to {}", last);
  }
  return text;
}

std::string left_out_json(const Rollbacks& rollbacks) {
  std::vector<std::string> rows;
  for (const auto& [first, last] : rows_of(rollbacks))
    rows.push_back(fmt::format("[{},{}]", first, last));
  return fmt::format("[{}]", fmt::join(rows, ","));
}

bool is_given_up(const Rollbacks& rollbacks, std::size_t known, std::int64_t step) {
  for (std::size_t i = known; i < rollbacks.size(); ++i) {
    if (step > rollbacks[i].to) return true;
  }
  return false;
}

std::string rollbacks_text(const Rollbacks& rollbacks) {
  return to_json(rollbacks).dump();
}

Rollbacks parse_rollbacks(const std::string& text) {
  return from_json(Json::parse(text));
}

Rollbacks read_rollbacks(const std::string& output) {
  const std::string path = path_in(output);
  std::error_code failure;
  if (!fs::exists(path, failure) && !failure) return {};
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) fail(fmt::format("cannot read {}", path));
  try {
    const Json json = Json::parse(text.str());
    if (json.at("version") != kVersion) {
      fail(fmt::format("expected version {}, found {}", kVersion, json.at("version").dump()));
    }
    return from_json(json.at("rollbacks"));
  } catch (const std::exception& error) {
    fail(
        fmt::format("{}: not a list of rollbacks: {}; restore the file, or resume in another "
                    "run.output",
                    path, error.what()));
  }
}

void write_rollbacks(const std::string& output, const Rollbacks& rollbacks) {
  replace_file(path_in(output), fmt::format("{{\"version\":{},\"rollbacks\":{}}}\n", kVersion,
                                            rollbacks_text(rollbacks)));
}

void remove_rollbacks(const std::string& output) {
  std::error_code failure;
  fs::remove(path_in(output), failure);
  if (failure) fail(fmt::format("cannot remove {}: {}", path_in(output), failure.message()));
}

}  // namespace lockstep::runtime
