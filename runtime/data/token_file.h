#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/input_file.h"

// Token files: what `data.train` and `data.validation` name.
//
//   prepared   a directory made by `lockstep data prepare`: train.bin and validation.bin (raw, in
//              the token type that meta.json names) and meta.json (runtime/data/prepared_meta.h)
//   raw        little-endian uint16 or uint32 token ids and nothing else, as nanoGPT writes;
//              `data.token_type` says which
//   llm.c      256 little-endian int32 (magic 20240520: uint16, 20240801: uint32; version 1; number
//              of tokens; rest unused), then exactly that many token ids
//
// A file is read as llm.c exactly when its first four bytes are one of the two magics: the magic
// wins over `data.token_type`. A raw file starting with the same bytes would start with token
// 20240520 or 20240801 (uint32: beyond any vocabulary), or with token 55432 or 55713 followed by
// token 308 (uint16: beyond GPT-2's vocabulary); such a file must be given the header of llm.c.
// Magics of other files of llm.c (weights, evaluation sets) and numpy's .npy are refused by name, and
// so is a file of 32-bit ids that is read as 16-bit ones: every second id would be 0.
//
// Tokens that are no targets: with 32-bit ids, id -100 (0xFFFFFF9C), as PyTorch's cross-entropy and
// Hugging Face's labels have it; whatever the type of the ids, a mask file beside the token file,
// train.mask for train.bin, of one byte a token, 0 for one that is no target and 1 for one that is.
// What -100 stands in for is not known: as an input it is id 0. A masked token is an input like any
// other.
namespace lockstep::runtime {

enum class TokenFormat { kPrepared, kRaw, kLlmc };
std::string_view name_of(TokenFormat format);  // "prepared", "raw", "llm.c"

// Which half of a prepared directory is meant.
enum class DataSplit { kTrain, kValidation };

// Identifies the contents of a data file without reading all of it. hash = XXH3-64 (seed 0) of:
// the size as little-endian uint64; the first min(size, 64 KiB) bytes; the last min(size, 64 KiB)
// bytes; and 1024 samples of w = min(size, 64) bytes, sample i at floor(i * (size - w) / 1023).
struct DataFingerprint {
  std::string name;  // file name without directories ("corpus/train.bin" for a prepared directory)
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;

  bool same_contents(const DataFingerprint& other) const {
    return bytes == other.bytes && hash == other.hash;
  }
};
std::uint64_t sampled_hash(const core::InputFile& file);

inline constexpr std::int32_t kNoTarget = -100;  // in files of 32-bit ids

// One validated token file. Never written to. Reads throw Error(kData) when the file has been cut
// short since it was opened. Thread-safe.
class TokenFile {
 public:
  // Opens a file, or the `split` of a prepared directory. `raw_type` (kU16 or kU32) is the type of
  // raw files. Throws Error(kData) naming the file, what was expected, what was found and the way
  // out, when it is missing, empty, of a size that is no multiple of the token, truncated, of a
  // wrong version, or disagrees with its header or meta.json.
  TokenFile(const std::filesystem::path& path, core::DType raw_type, DataSplit split);

  const std::filesystem::path& path() const { return file_.path(); }  // of the .bin itself
  TokenFormat format() const { return format_; }
  core::DType token_type() const { return token_type_; }  // kU16 or kU32
  std::uint64_t tokens() const { return tokens_; }
  std::uint64_t header_bytes() const { return header_bytes_; }

  // Of a prepared directory: the tokenizer as JSON text and its vocabulary; else empty.
  const std::string& tokenizer() const { return tokenizer_; }
  std::optional<std::int64_t> tokenizer_vocab() const { return tokenizer_vocab_; }

  // Token ids [first, first + out.size()), which must lie within the file. Ids of 2^31 and above
  // come out negative, so that no caller takes them for legal: kNoTarget as itself.
  void read(std::uint64_t first, std::span<std::int32_t> out) const;

  // The same, with kNoTarget in place of every token that is no target.
  void read_targets(std::uint64_t first, std::span<std::int32_t> out) const;
  bool masked() const { return mask_.has_value(); }  // by a file of its own

  // Smallest and largest id of the whole file, but for kNoTarget, and how many tokens are targets;
  // reads all of it.
  struct IdRange {
    std::uint32_t smallest = 0;
    std::uint32_t largest = 0;
    std::uint64_t targets = 0;
  };
  IdRange id_range() const;

  // Throws Error(kData) with file, token index, id and vocabulary at the first id >= vocab in
  // [first, first + count) that is not kNoTarget.
  void check_ids(std::uint64_t first, std::uint64_t count, std::int64_t vocab) const;

  DataFingerprint fingerprint() const;
  std::optional<DataFingerprint> mask_fingerprint() const;

 private:
  void open_prepared(const std::filesystem::path& directory, DataSplit split);
  void open_plain(core::DType raw_type);
  void read_llmc_header(std::uint32_t magic);
  void set_raw_tokens();
  void refuse_wide_ids() const;
  void open_mask();
  template <typename T>
  void read_ids(std::uint64_t first, std::span<T> out) const;
  void for_each_piece(
      std::uint64_t first, std::uint64_t count,
      const std::function<void(std::uint64_t, std::span<const std::uint32_t>)>& visit) const;

  core::InputFile file_;
  std::optional<core::InputFile> mask_;
  std::string name_;
  TokenFormat format_ = TokenFormat::kRaw;
  core::DType token_type_ = core::DType::kU16;
  std::uint64_t header_bytes_ = 0;
  std::uint64_t tokens_ = 0;
  std::string tokenizer_;
  std::optional<std::int64_t> tokenizer_vocab_;
};

// The files behind `data.train` or `data.validation` (runtime/data/sources.h).
std::vector<TokenFile> open_token_files(const std::vector<std::string>& sources,
                                        core::DType raw_type, DataSplit split);

}  // namespace lockstep::runtime
