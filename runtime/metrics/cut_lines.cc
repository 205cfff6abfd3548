#include "runtime/metrics/cut_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/hash.h"

namespace lockstep::runtime {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::json;

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

std::string cut_directory(const std::string& output) {
  return output + "/cut";
}

std::int64_t order_of(const Json& line) {
  if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) return -1;
  const Json event = line.value("event", Json("step"));  // a ledger record names none
  const auto step = line["step"].get<std::int64_t>();
  if (event == "step") return 2 * step;
  return event == "validation" ? 2 * step + 1 : -1;
}

// Every whole line from byte `begin` on, with the byte at which it begins.
void for_each_line(const std::string& path, std::uint64_t begin,
                   const std::function<void(std::uint64_t, const std::string&)>& visit) {
  std::ifstream in(path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(begin));
  std::uint64_t at = begin;
  for (std::string line; std::getline(in, line) && !in.eof();) {
    visit(at, line);
    at += line.size() + 1;
  }
}

// What is known of the attempts that wrote some lines.
struct Writers {
  bool bits_promised = true;
  int ranks = 0;  // 0: not all as many, or not known
};

Writers writers_by_header(const std::string& path, const Writers& nobody) {
  std::ifstream in(path, std::ios::binary);
  std::string line;
  if (!std::getline(in, line)) return nobody;  // nothing was left to compare
  const Json header = Json::parse(line, nullptr, false);
  if (!header.is_object() || header.value("version", 0) != 1) return {false, 0};
  return {header.value("bits_promised", false), header.value("ranks", 0)};
}

// What the `run` and `resume` lines say of the attempts that wrote the lines beyond `begin`.
Writers writers_of(const std::string& metrics, std::uint64_t begin, std::uint64_t set_up) {
  const std::string expected = core::to_hex(set_up);
  Writers writers{false, 0};
  for_each_line(metrics, 0, [&](std::uint64_t at, const std::string& text) {
    const bool resumes = text.starts_with(R"({"event":"resume",)");
    if (!resumes && !text.starts_with(R"({"event":"run",)")) return;
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object() || !line.contains("set_up")) return;
    const bool own = line["set_up"] == expected;
    const int ranks = line.value("ranks", 0);
    if (at < begin) {
      writers = {own, ranks};  // of these only the last wrote beyond
    } else {
      writers.bits_promised = writers.bits_promised && own && line.value("bits_promised", true);
      if (writers.ranks != ranks) writers.ranks = 0;
    }
  });
  return writers;
}

// One of the two files: what is cut now, then what an earlier resume cut and nobody has computed
// again since.
class CutFile {
 public:
  CutFile(const std::string& path, const Writers& writers) : path_(path), next_(path + ".next") {
    out_.open(next_, std::ios::binary | std::ios::trunc);
    out_ << fmt::format("{{\"version\":1,\"bits_promised\":{},\"ranks\":{}}}\n",
                        writers.bits_promised, writers.ranks);
  }

  // `limit_at`: gives the line from which on nothing is kept.
  void fill(const std::string& source, std::uint64_t begin, std::int64_t first,
            const std::function<bool(const Json&)>& limit_at) {
    std::int64_t last = first - 1;
    const auto keep = [&](std::uint64_t, const std::string& text) {
      const Json line = Json::parse(text, nullptr, false);
      const std::int64_t order = order_of(line);
      if (limit_ != kNoLimit || order <= last) return;
      if (limit_at(line)) {
        limit_ = order;
        return;
      }
      last = order;
      out_ << text << '\n';
    };
    for_each_line(source, begin, keep);
    for_each_line(path_, 0, keep);
    out_.close();
    std::error_code failure;
    if (out_) fs::rename(next_, path_, failure);
    if (!out_ || failure) {
      throw core::Error(core::ErrorKind::kData,
                        fmt::format("{}: cannot write the lines that this resume cuts; free disk "
                                    "space or make the directory writable",
                                    path_));
    }
  }

  std::int64_t limit() const { return limit_; }

 private:
  std::string path_;
  std::string next_;
  std::ofstream out_;
  std::int64_t limit_ = kNoLimit;
};

}  // namespace

std::string cut_metrics_file(const std::string& output) {
  return cut_directory(output) + "/metrics.jsonl";
}

std::string cut_ledger_file(const std::string& output) {
  return cut_directory(output) + "/ledger.jsonl";
}

std::int64_t order_of_line(const std::string& line) {
  return order_of(Json::parse(line, nullptr, false));
}

bool keep_cut_lines(const std::string& output, std::uint64_t metrics_bytes,
                    std::uint64_t ledger_bytes, const ResumePoint& point) {
  std::error_code ignored;  // a file that cannot be written says so
  fs::create_directories(cut_directory(output), ignored);
  const std::string metrics = output + "/metrics.jsonl";
  Writers writers = writers_of(metrics, metrics_bytes, point.set_up);
  const Writers earlier = writers_by_header(cut_metrics_file(output), {true, writers.ranks});
  writers.bits_promised = writers.bits_promised && point.bits_promised && earlier.bits_promised;
  if (earlier.ranks != writers.ranks) writers.ranks = 0;
  const std::int64_t first = 2 * (point.step + 1);
  CutFile ledger(cut_ledger_file(output), writers);
  ledger.fill(output + "/ledger.jsonl", ledger_bytes, first, [&](const Json& line) {
    const bool was_left_out = line.value("outcome", "") == "left_out";
    return point.left_out && point.left_out(line["step"].get<std::int64_t>()) != was_left_out;
  });
  CutFile(cut_metrics_file(output), writers)
      .fill(metrics, metrics_bytes, first,
            [&](const Json& line) { return order_of(line) >= ledger.limit(); });
  return writers.bits_promised;
}

void remove_cut_lines(const std::string& output) {
  std::error_code ignored;
  fs::remove_all(cut_directory(output), ignored);
}

}  // namespace lockstep::runtime
