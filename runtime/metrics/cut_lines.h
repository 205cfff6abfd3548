#pragma once

#include <cstdint>
#include <functional>
#include <string>

// What a resume cuts off metrics.jsonl and ledger.jsonl, kept in OUTPUT/cut/ until the steps have
// been computed again and compared (ResumeVerifier). Two files (version 1), each a header line
//
//   {"version":1,"bits_promised":true,"ranks":4}
//
// and then lines as they were cut, steps ascending: `step` and `validation` lines, ledger records.
// ranks: how many computed all of them; 0 if not all were computed by as many, or nobody knows.
// If the run is killed before all have been compared, the next resume keeps those that are left
// together with what it cuts itself.
namespace lockstep::runtime {

std::string cut_metrics_file(const std::string& output);
std::string cut_ledger_file(const std::string& output);

// Where a run resumes in its own OUTPUT, and as what.
struct ResumePoint {
  std::int64_t step = 0;                            // of the checkpoint
  std::uint64_t set_up = 0;                         // hash_of_set_up()
  bool bits_promised = true;                        // by run.reproducible
  int ranks = 0;                                    // of this attempt
  std::function<bool(std::int64_t step)> left_out;  // by a rollback; lines from the first such step
                                                    // on that was computed before are not kept
};

// Keeps the lines beyond these lengths; to be called before the files are cut. Lines without an end
// were torn and do not count. Returns whether the same bits are promised: whether the `run` and
// `resume` lines of the attempts that wrote them all name the set-up of `point`, and none of those
// attempts had itself no promise; the header's ranks likewise. Throws Error(kData) naming a file that cannot be written.
bool keep_cut_lines(const std::string& output, std::uint64_t metrics_bytes,
                    std::uint64_t ledger_bytes, const ResumePoint& point);

void remove_cut_lines(const std::string& output);

// The order of the lines of a step: 2 * step, one more for its `validation` line; -1 for a line
// that is not compared.
std::int64_t order_of_line(const std::string& line);

}  // namespace lockstep::runtime
