#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

namespace lockstep::runtime {

// What became of comparing the steps that a resume computes again with what was cut.
struct ResumeVerdict {
  struct Difference {
    std::int64_t step = 0;
    std::string line;    // "step", "validation" or "ledger"
    std::string field;   // the first in the order of the line
    std::string before;  // values as JSON texts; "absent"
    std::string now;
  };

  std::int64_t from = 0;  // the first and the last step that was compared
  std::int64_t to = 0;
  bool bits_promised = true;
  std::optional<Difference> difference;  // none: all that was compared is the same

  bool verified() const { return !difference; }
  // The members of the `resume` line that tells it: step, resume_verified, from, to, bits_promised
  // and, at a difference, line, field, before, now.
  std::string fields() const;
  std::string describe() const;  // for people
};

// Compares lines of metrics.jsonl and ledger.jsonl, as they are written again after a resume, with
// those in OUTPUT/cut (runtime/metrics/cut_lines.h), which it reads one at a time. All fields count
// but tokens_per_second, step_seconds and `hash`; numbers are in the shortest form, so that equal
// texts are equal bits. `parameter_hashes` counts where both have it, and what was found where in an
// overflow (`overflow_rank`, `overflow_bucket`, `overflow_tensor`) where as many ranks looked. The ledger, which names the
// set-up itself, counts only when bits are promised. A line without counterpart (another cadence)
// is passed over.
class ResumeVerifier {
 public:
  // ranks: that compute the lines again.
  ResumeVerifier(const std::string& output, int ranks);

  bool pending() const { return pending_; }
  bool bits_promised() const { return metrics_.bits_promised; }

  // A line as it was just written, without its end. The verdict comes once, with the line that
  // decides it.
  std::optional<ResumeVerdict> metrics_line(const std::string& line);
  std::optional<ResumeVerdict> ledger_line(const std::string& line);

 private:
  struct Source {
    explicit Source(const std::string& path);
    void advance();

    std::ifstream in;
    bool bits_promised = false;
    int ranks = 0;            // that wrote the lines; 0: not known
    std::string line;         // the next one
    std::int64_t order = -1;  // its order_of_line(); -1: none is left
  };

  std::optional<ResumeVerdict> compare(Source& source, const char* file, const std::string& line);

  Source metrics_;
  Source ledger_;
  bool same_ranks_;
  bool pending_ = true;
  ResumeVerdict so_far_;
};

}  // namespace lockstep::runtime
