#include "runtime/data/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"
#include "runtime/data/prepared_meta.h"
#include "runtime/data/sources.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Error;
using core::ErrorKind;

constexpr std::uint32_t kLlmcMagic16 = 20240520;
constexpr std::uint32_t kLlmcMagic32 = 20240801;
constexpr std::uint32_t kLlmcVersion = 1;
constexpr std::size_t kLlmcHeaderBytes = 256 * sizeof(std::int32_t);
constexpr std::uint64_t kEndBytes = 64 * 1024;
constexpr std::uint64_t kSamples = 1024;
constexpr std::uint64_t kSampleBytes = 64;
constexpr std::uint64_t kChunkTokens = 1 << 16;
constexpr std::uint64_t kLeastPairs = 8;  // of ids that tell 32 bits from 16
constexpr std::uint32_t kNoTargetBits = static_cast<std::uint32_t>(kNoTarget);

// Files that are taken for token files by mistake: their first bytes and what they are.
struct ForeignFile {
  std::string_view first_bytes;
  std::string_view description;
};
constexpr std::size_t kLongestMagic = 6;
constexpr std::array<ForeignFile, 4> kForeignFiles = {{
    {{"\xC6\xD7\x34\x01", 4}, "weights of llm.c (magic 20240326)"},
    {{"\xC7\xD7\x34\x01", 4}, "a debug state of llm.c (magic 20240327)"},
    {{"\x8A\xD8\x34\x01", 4}, "an evaluation set of llm.c (magic 20240522)"},
    {{"\x93NUMPY", 6}, "a numpy .npy array; write the bare ids with array.tofile()"},
}};

[[noreturn]] void fail(const fs::path& path, const std::string& message) {
  throw Error(ErrorKind::kData, fmt::format("{}: {}", path.string(), message));
}

std::uint32_t read_word(const core::InputFile& file, std::uint64_t at) {
  std::uint32_t word = 0;
  file.read(at, std::as_writable_bytes(std::span(&word, 1)));
  return word;
}

void refuse_foreign(const core::InputFile& file) {
  std::string begin(std::min<std::uint64_t>(file.size(), kLongestMagic), '\0');
  file.read(0, std::as_writable_bytes(std::span(begin)));
  for (const ForeignFile& foreign : kForeignFiles) {
    if (begin.starts_with(foreign.first_bytes))
      fail(file.path(), fmt::format("expected a token file, found {}", foreign.description));
  }
}

fs::path bin_of(const fs::path& path, DataSplit split) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  const PreparedMeta meta = read_prepared_meta(path);
  if (split == DataSplit::kValidation && meta.validation_tokens == 0)
    fail(path,
         "expected validation data, found a directory prepared without any; prepare it "
         "again with --validation-fraction above 0, or leave out data.validation");
  return path / (split == DataSplit::kTrain ? kTrainFile : kValidationFile);
}

}  // namespace

std::string_view name_of(TokenFormat format) {
  switch (format) {
    case TokenFormat::kPrepared:
      return "prepared";
    case TokenFormat::kRaw:
      return "raw";
    case TokenFormat::kLlmc:
      return "llm.c";
  }
  core::fail_check(__FILE__, __LINE__, "format", "unknown token format");
}

std::uint64_t sampled_hash(const core::InputFile& file) {
  const std::uint64_t size = file.size();
  core::StreamingHash hash;
  hash.update(&size, sizeof(size));
  const std::uint64_t end_bytes = std::min(size, kEndBytes);
  std::vector<std::byte> room(end_bytes);
  const auto add = [&](std::uint64_t at, std::uint64_t bytes) {
    file.read(at, std::span(room).first(bytes));
    hash.update(room.data(), bytes);
  };
  if (size > 0) {
    add(0, end_bytes);
    add(size - end_bytes, end_bytes);
    const std::uint64_t width = std::min(size, kSampleBytes);
    for (std::uint64_t i = 0; i < kSamples; ++i)
      add(i * (size - width) / (kSamples - 1), width);
  }
  return hash.digest();
}

TokenFile::TokenFile(const fs::path& path, DType raw_type, DataSplit split)
    : file_(bin_of(path, split)), name_(path.filename().string()) {
  LOCKSTEP_CHECK(raw_type == DType::kU16 || raw_type == DType::kU32, "token type {}",
                 core::name_of(raw_type));
  if (file_.path() == path) {
    open_plain(raw_type);
  } else {
    open_prepared(path, split);
  }
  open_mask();
}

void TokenFile::open_prepared(const fs::path& directory, DataSplit split) {
  const PreparedMeta meta = read_prepared_meta(directory);
  format_ = TokenFormat::kPrepared;
  token_type_ = meta.token_type;
  tokenizer_ = meta.tokenizer;
  tokenizer_vocab_ = meta.vocab;
  const fs::path name =
      directory.has_filename() ? directory.filename() : directory.parent_path().filename();
  name_ = (name / file_.path().filename()).string();
  const std::uint64_t wanted =
      split == DataSplit::kTrain ? meta.train_tokens : meta.validation_tokens;
  set_raw_tokens();
  refuse_wide_ids();
  if (tokens_ != wanted)
    fail(path(), fmt::format("expected {} tokens as {} says, found {}: the file was truncated or "
                             "altered; prepare the data again",
                             wanted, kMetaFile, tokens_));
}

void TokenFile::open_plain(DType raw_type) {
  refuse_foreign(file_);
  const std::uint32_t magic = file_.size() >= sizeof(std::uint32_t) ? read_word(file_, 0) : 0;
  if (magic == kLlmcMagic16 || magic == kLlmcMagic32) {
    read_llmc_header(magic);
    return;
  }
  token_type_ = raw_type;
  set_raw_tokens();
  refuse_wide_ids();
}

void TokenFile::set_raw_tokens() {
  const std::size_t width = core::size_of(token_type_);
  if (file_.size() == 0)
    fail(path(), "expected token ids, found an empty file; write the file again");
  if (file_.size() % width != 0)
    fail(path(), fmt::format("expected {} token ids, hence a size that is a multiple of {} bytes, "
                             "found {} bytes: truncated, of another data.token_type, or not a "
                             "token file",
                             token_type_name(token_type_), width, file_.size()));
  tokens_ = file_.size() / width;
}

void TokenFile::read_llmc_header(std::uint32_t magic) {
  format_ = TokenFormat::kLlmc;
  token_type_ = magic == kLlmcMagic16 ? DType::kU16 : DType::kU32;
  header_bytes_ = kLlmcHeaderBytes;
  if (file_.size() < kLlmcHeaderBytes)
    fail(path(), fmt::format("expected the {} bytes of llm.c's header after magic {}, found {} "
                             "bytes: the file is truncated; copy or write it again",
                             kLlmcHeaderBytes, magic, file_.size()));
  const std::uint32_t version = read_word(file_, 4);
  if (version != kLlmcVersion)
    fail(path(), fmt::format("expected version {} in llm.c's header (magic {}), found {}; write "
                             "the file again with llm.c's current data scripts",
                             kLlmcVersion, magic, version));
  tokens_ = read_word(file_, 8);
  const std::uint64_t wanted = kLlmcHeaderBytes + tokens_ * core::size_of(token_type_);
  if (tokens_ == 0) fail(path(), "expected token ids, found a header that counts 0 tokens");
  if (file_.size() != wanted)
    fail(path(), fmt::format("expected {} bytes ({} {} tokens as llm.c's header says), found {}: "
                             "the file is {}; copy or write it again",
                             wanted, tokens_, token_type_name(token_type_), file_.size(),
                             file_.size() < wanted ? "truncated" : "longer than its header says"));
}

// Ids of 32 bits below 65536 have a zero in their upper half, which comes second. Looked at are the
// beginning, the middle and the end.
void TokenFile::refuse_wide_ids() const {
  if (token_type_ != DType::kU16 || tokens_ % 2 != 0 || tokens_ < kLeastPairs * 2) return;
  const std::uint64_t pairs = std::min(tokens_ / 2, kChunkTokens);
  std::vector<std::uint16_t> ids(pairs * 2);
  bool low_halves = false;
  for (const std::uint64_t first_pair :
       {std::uint64_t{0}, (tokens_ / 2 - pairs) / 2, tokens_ / 2 - pairs}) {
    read_ids<std::uint16_t>(first_pair * 2, ids);
    for (std::size_t i = 0; i < ids.size(); i += 2) {
      if (ids[i + 1] != 0) return;
      low_halves = low_halves || ids[i] != 0;
    }
  }
  if (!low_halves) return;
  const bool prepared = format_ == TokenFormat::kPrepared;
  fail(path(), fmt::format("expected 16-bit token ids, found every second one 0: these are 32-bit "
                           "ids{}; {}",
                           prepared ? fmt::format(", and {} says uint16", kMetaFile) : "",
                           prepared ? "prepare the data again"
                                    : "set data.token_type: uint32 (or, if each second token is "
                                      "meant to be 0, write the file with the header of llm.c)"));
}

void TokenFile::open_mask() {
  fs::path mask = path();
  mask.replace_extension(kMaskExtension);
  std::error_code ignored;
  if (mask == path() || !fs::exists(mask, ignored)) return;
  mask_.emplace(mask);
  if (mask_->size() != tokens_)
    fail(mask, fmt::format("expected a byte for each of the {} tokens of {}, found {} bytes; write "
                           "it again, or remove it to make every token a target",
                           tokens_, path().string(), mask_->size()));
}

template <typename T>
void TokenFile::read_ids(std::uint64_t first, std::span<T> out) const {
  LOCKSTEP_CHECK(first <= tokens_ && out.size() <= tokens_ - first, "tokens [{}, +{}) of {} in {}",
                 first, out.size(), tokens_, path().string());
  file_.read(header_bytes_ + first * sizeof(T), std::as_writable_bytes(out));
}

void TokenFile::read(std::uint64_t first, std::span<std::int32_t> out) const {
  if (token_type_ == DType::kU32) return read_ids(first, out);
  std::array<std::uint16_t, 1024> narrow;
  for (std::size_t done = 0; done < out.size(); done += narrow.size()) {
    const std::size_t n = std::min(narrow.size(), out.size() - done);
    read_ids(first + done, std::span(narrow).first(n));
    std::copy_n(narrow.begin(), n, out.begin() + static_cast<std::ptrdiff_t>(done));
  }
}

void TokenFile::read_targets(std::uint64_t first, std::span<std::int32_t> out) const {
  read(first, out);
  if (!mask_) return;
  std::vector<std::uint8_t> counts(out.size());
  mask_->read(first, std::as_writable_bytes(std::span(counts)));
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (counts[i] > 1)
      fail(mask_->path(), fmt::format("expected 0 or 1 for each token, found {} at byte {}; write "
                                      "it again as one byte a token",
                                      counts[i], first + i));
    if (counts[i] == 0) out[i] = kNoTarget;
  }
}

// Calls visit(token, ids) for the tokens [first, first + count), piece after piece.
void TokenFile::for_each_piece(
    std::uint64_t first, std::uint64_t count,
    const std::function<void(std::uint64_t, std::span<const std::uint32_t>)>& visit) const {
  LOCKSTEP_CHECK(first <= tokens_ && count <= tokens_ - first, "tokens [{}, +{}) of {} in {}",
                 first, count, tokens_, path().string());
  std::vector<std::int32_t> piece(std::min(kChunkTokens, count));
  for (std::uint64_t begin = first; begin < first + count; begin += piece.size()) {
    const std::uint64_t n = std::min<std::uint64_t>(piece.size(), first + count - begin);
    read(begin, std::span(piece).first(n));
    visit(begin, {reinterpret_cast<const std::uint32_t*>(piece.data()), n});
  }
}

TokenFile::IdRange TokenFile::id_range() const {
  IdRange range{0xFFFFFFFFU, 0, 0};
  std::vector<std::int32_t> targets;
  for_each_piece(0, tokens_, [&](std::uint64_t begin, std::span<const std::uint32_t> ids) {
    for (const std::uint32_t id : ids) {
      if (id == kNoTargetBits) continue;
      range.smallest = std::min(range.smallest, id);
      range.largest = std::max(range.largest, id);
    }
    targets.resize(ids.size());
    read_targets(begin, targets);
    range.targets += targets.size() - static_cast<std::uint64_t>(
                                          std::count(targets.begin(), targets.end(), kNoTarget));
  });
  range.smallest = std::min(range.smallest, range.largest);  // not a single id
  return range;
}

void TokenFile::check_ids(std::uint64_t first, std::uint64_t count, std::int64_t vocab) const {
  const auto beyond = [&](std::uint32_t id) { return id >= vocab && id != kNoTargetBits; };
  for_each_piece(first, count, [&](std::uint64_t begin, std::span<const std::uint32_t> ids) {
    const auto bad = std::find_if(ids.begin(), ids.end(), beyond);
    if (bad == ids.end()) return;
    const std::uint64_t token = begin + static_cast<std::uint64_t>(bad - ids.begin());
    fail(path(),
         fmt::format("expected token ids below model.vocab = {}, found id {} at token {} (byte "
                     "{}); raise model.vocab, set data.token_type (read as {}), or use data made "
                     "with this model's tokenizer",
                     vocab, *bad, token, header_bytes_ + token * core::size_of(token_type_),
                     token_type_name(token_type_)));
  });
}

DataFingerprint TokenFile::fingerprint() const {
  return {name_, file_.size(), sampled_hash(file_)};
}

std::optional<DataFingerprint> TokenFile::mask_fingerprint() const {
  if (!mask_) return std::nullopt;
  fs::path name = name_;
  return DataFingerprint{name.replace_extension(kMaskExtension).string(), mask_->size(),
                         sampled_hash(*mask_)};
}

std::vector<TokenFile> open_token_files(const std::vector<std::string>& sources, DType raw_type,
                                        DataSplit split) {
  std::vector<TokenFile> files;
  for (const fs::path& path : expand_sources(sources))
    files.emplace_back(path, raw_type, split);
  return files;
}

}  // namespace lockstep::runtime
