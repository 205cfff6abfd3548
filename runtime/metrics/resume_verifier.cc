#include "runtime/metrics/resume_verifier.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/json_text.h"
#include "runtime/metrics/cut_lines.h"

namespace lockstep::runtime {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kAbsent = "absent";

bool counts(const std::string& field, const Json& before, const Json& now, bool same_ranks) {
  if (field == "tokens_per_second" || field == "step_seconds" || field == "hash") return false;
  if (field == "overflow_rank" || field == "overflow_bucket" || field == "overflow_tensor")
    return same_ranks;
  return field != "parameter_hashes" || (before.contains(field) && now.contains(field));
}

std::string text_of(const Json& line, const std::string& field) {
  return line.contains(field) ? line[field].dump() : kAbsent;
}

std::optional<ResumeVerdict::Difference> first_difference(const std::string& before_text,
                                                          const std::string& now_text,
                                                          bool same_ranks) {
  if (before_text == now_text) return std::nullopt;
  const Json before = Json::parse(before_text, nullptr, false);
  const Json now = Json::parse(now_text, nullptr, false);
  for (const Json& fields : {now, before}) {
    for (const auto& [field, value] : fields.items()) {
      if (!counts(field, before, now, same_ranks)) continue;
      const std::string was = text_of(before, field);
      const std::string is = text_of(now, field);
      if (was != is) return ResumeVerdict::Difference{0, "", field, was, is};
    }
  }
  return std::nullopt;
}

}  // namespace

std::string ResumeVerdict::fields() const {
  std::string text =
      fmt::format(R"("step":{},"resume_verified":{},"from":{},"to":{},"bits_promised":{})",
                  difference ? difference->step : to, verified(), from, to, bits_promised);
  if (difference) {
    text += fmt::format(R"(,"line":"{}","field":{},"before":{},"now":{})", difference->line,
                        core::json_string(difference->field), core::json_string(difference->before),
                        core::json_string(difference->now));
  }
  return text;
}

std::string ResumeVerdict::describe() const {
  if (!difference) {
    return fmt::format("resume_verified: steps {} to {}, computed again, are what they were", from,
                       to);
  }
  return fmt::format(
      "not resume_verified: step {}, computed again, differs: {} of its {} line was {} and is now "
      "{}; {}",
      difference->step, difference->field, difference->line, difference->before, difference->now,
      bits_promised
          ? "the same bits were promised: suspect memory, processor, or the files of the run"
          : "the same bits were not promised, because the set-up of the run has changed");
}

ResumeVerifier::Source::Source(const std::string& path) : in(path, std::ios::binary) {
  if (!std::getline(in, line)) return;
  const Json header = Json::parse(line, nullptr, false);
  if (!header.is_object() || header.value("version", 0) != 1) return;
  bits_promised = header.value("bits_promised", false);
  ranks = header.value("ranks", 0);
  advance();
}

void ResumeVerifier::Source::advance() {
  order = std::getline(in, line) ? order_of_line(line) : -1;
}

ResumeVerifier::ResumeVerifier(const std::string& output, int ranks)
    : metrics_(cut_metrics_file(output)),
      ledger_(cut_ledger_file(output)),
      same_ranks_(ranks == metrics_.ranks) {
  so_far_.bits_promised = metrics_.bits_promised;
  if (!metrics_.bits_promised) ledger_.order = -1;
  pending_ = metrics_.order >= 0 || ledger_.order >= 0;
}

std::optional<ResumeVerdict> ResumeVerifier::metrics_line(const std::string& line) {
  return compare(metrics_, nullptr, line);
}

std::optional<ResumeVerdict> ResumeVerifier::ledger_line(const std::string& line) {
  return compare(ledger_, "ledger", line);
}

std::optional<ResumeVerdict> ResumeVerifier::compare(Source& source, const char* file,
                                                     const std::string& line) {
  if (!pending_) return std::nullopt;
  const std::int64_t order = order_of_line(line);
  while (source.order >= 0 && source.order < order)
    source.advance();
  if (source.order >= 0 && source.order == order) {
    const std::int64_t step = order / 2;
    if (so_far_.from == 0) so_far_.from = step;
    so_far_.to = step;
    so_far_.difference = first_difference(source.line, line, same_ranks_);
    if (so_far_.difference) {
      so_far_.difference->step = step;
      so_far_.difference->line = file != nullptr ? file : order % 2 == 0 ? "step" : "validation";
    }
    source.advance();
  }
  const bool drained = metrics_.order < 0 && ledger_.order < 0;
  if (!drained && !so_far_.difference) return std::nullopt;
  pending_ = false;
  if (so_far_.from == 0) return std::nullopt;  // nothing had a counterpart
  return so_far_;
}

}  // namespace lockstep::runtime
