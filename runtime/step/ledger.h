#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/files/append_file.h"

namespace lockstep::runtime {

// One record a step: what was decided and from what. Every field here is hashed, and none depends
// on time or on the attempt; the world size (`ranks`) is hashed except under run.reproducible:
// ranks, where records of different world sizes must be equal.
struct LedgerRecord {
  std::int64_t step = 0;  // attempt, 1-based
  std::int64_t data_position = 0;
  std::string outcome;  // "applied", "overflow", "diverged", "spike", "no_tokens", "left_out"
  std::int64_t applied_steps = 0;  // after this step
  std::int64_t tokens = 0;
  double loss = 0.0;
  double grad_norm = 0.0;
  double coefficient = 0.0;
  double learning_rate = 0.0;
  double loss_scale = 0.0;       // used in this step
  double next_loss_scale = 0.0;  // for the next one
  std::uint64_t config_fingerprint = 0;
  std::string clip;  // after this step: clip_state_text(); empty: left out of the record
  int ranks = 0;     // 0: left out of the record
  std::optional<std::vector<std::uint64_t>> parameter_hashes;  // one per bucket, on verified steps
};

// Appends records to OUTPUT/ledger.jsonl (version 1), each holding the hash of itself and of all
// before it:
//   hash_k = XXH3-64(canonical text of record k, seed = hash_(k-1)),  hash_0 = 0.
// The canonical text is the line without its last key, "hash": keys in the order above, doubles in
// the shortest decimal form that reads back to the same bits (null when not finite), 64-bit hashes
// as 16 hex digits. Every rank keeps the chain; only rank 0 opens a file.
class Ledger {
 public:
  // Appends to `path`, cut to `keep_bytes` first (0 for a new run). Throws Error(kData) when that
  // cannot be done.
  void open(const std::string& path, std::uint64_t keep_bytes) { file_.open(path, keep_bytes); }

  std::uint64_t head() const { return head_; }
  void set_head(std::uint64_t head) { head_ = head; }  // on resume

  // Returns the line as it was written, without its end; empty where no file is open.
  std::string append(const LedgerRecord& record);
  std::uint64_t sync() { return file_.sync(); }  // the length of the file in bytes

 private:
  std::uint64_t head_ = 0;
  AppendFile file_;
};

// One line of a ledger file, as key/value texts in file order, with its hash.
struct LedgerLine {
  std::int64_t step = 0;
  std::vector<std::pair<std::string, std::string>> fields;
  std::uint64_t hash = 0;

  const std::string* find(const std::string& name) const;  // null if absent
};

inline constexpr const char* kParameterHashes = "parameter_hashes";  // of verified steps

// Reads and verifies a ledger: a broken chain, or an unreadable line other than a torn last one, is
// Error(kData) naming the line.
std::vector<LedgerLine> read_ledger(const std::string& path);

// Whether the first `bytes` of a ledger file are whole records of which the last has the hash
// `head` (0 bytes: head 0). Reads only that hash. Throws Error(kData) when the file cannot be read.
bool ledger_has_passed(const std::string& path, std::uint64_t bytes, std::uint64_t head);

// Where two ledgers first differ; nothing when one is a prefix of the other or they are equal.
// Hashes that only one of them took of a step (parallel.verify_every, checkpoints) are no
// difference.
struct LedgerDifference {
  std::int64_t step = 0;
  std::string field;
  std::string first;   // value in the first ledger
  std::string second;  // value in the second
};
std::optional<LedgerDifference> first_difference(const std::vector<LedgerLine>& first,
                                                 const std::vector<LedgerLine>& second);

}  // namespace lockstep::runtime
