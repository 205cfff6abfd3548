#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/config/config.h"
#include "runtime/data/token_file.h"

namespace lockstep::runtime {

struct DealingOptions {
  DataOrder order = DataOrder::kShuffled;
  std::uint64_t seed = 0;    // run.seed
  std::int64_t context = 0;  // T, tokens of a sequence
  std::int64_t vocab = 0;    // ids are in [0, vocab); at most 2^31
};

// Files below this size are checked against the vocabulary as a whole when the dataset is opened;
// larger ones only where they are dealt.
inline constexpr std::uint64_t kFullScanBytes = 256ULL << 20;

// Deals fixed-length sequences out of token files. Everything dealt is a pure function of (files,
// options, position), so that a run can be replayed, resumed and divided among any number of ranks:
//
//   position  the number of sequences dealt before: with G sequences a step from the beginning,
//             p = s*G + i of sequence i in [0, G) of step s (0-based, counting attempts); where G
//             changes at a resume, the run continues at the position that its checkpoint holds
//   list      file f holds floor((tokens_f - 1) / T) sequences, sequence k being the inputs
//             [k*T, (k+1)*T) of that file and the targets [k*T + 1, (k+1)*T + 1); the list is the
//             files' sequences one file after the other, S in all; none crosses files
//   sequential  entry p mod S of the list
//   shuffled    entry permutation(seed, p div S)(p mod S), see runtime/data/permutation.h
//
// Thread-safe once constructed.
class TokenDataset {
 public:
  // Throws Error(kData) when there is no file, when a file holds fewer than T + 1 tokens, or when
  // a file under kFullScanBytes holds an id outside the vocabulary.
  TokenDataset(std::vector<TokenFile> files, const DealingOptions& options);

  const std::vector<TokenFile>& files() const { return files_; }
  const DealingOptions& options() const { return options_; }
  std::uint64_t sequences() const { return sequences_; }  // S
  std::uint64_t tokens() const;                           // of all files
  std::vector<DataFingerprint> fingerprints() const;      // in file order, masks after their files

  // Where the sequence dealt at a position lies.
  struct Location {
    std::size_t file = 0;           // index into files()
    std::uint64_t first_token = 0;  // of the inputs, within the file
  };
  Location locate(std::uint64_t position) const;

  // The sequence at a position; both spans hold T ids, and a target that is none is ops::kIgnored.
  // Throws Error(kData) with file, token, id and vocabulary for an id outside the vocabulary, and
  // when a file has been cut short.
  void sequence(std::uint64_t position, std::span<std::int32_t> inputs,
                std::span<std::int32_t> targets) const;

  // The sequences at positions [position, position + count), row after row: inputs and targets are
  // [count, T].
  void fill(std::int64_t position, std::int64_t count, std::span<std::int32_t> inputs,
            std::span<std::int32_t> targets) const;

 private:
  std::uint64_t list_entry(std::uint64_t position) const;

  std::vector<TokenFile> files_;
  DealingOptions options_;
  std::vector<std::uint64_t> ends_;  // number of sequences in files 0..f
  std::uint64_t sequences_ = 0;
};

}  // namespace lockstep::runtime
