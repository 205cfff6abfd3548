#include "runtime/data/token_file.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"
#include "runtime/data/prepared_meta.h"

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

// Files that are taken for token files by mistake: their first bytes and what they are.
struct ForeignFile {
  std::string_view first_bytes;
  std::string_view description;
};
constexpr std::array<ForeignFile, 4> kForeignFiles = {{
    {{"\xC6\xD7\x34\x01", 4}, "weights of llm.c (magic 20240326)"},
    {{"\xC7\xD7\x34\x01", 4}, "a debug state of llm.c (magic 20240327)"},
    {{"\x8A\xD8\x34\x01", 4}, "an evaluation set of llm.c (magic 20240522)"},
    {{"\x93NUMPY", 6}, "a numpy .npy array; write the bare ids with array.tofile()"},
}};

[[noreturn]] void fail(const fs::path& path, const std::string& message) {
  throw Error(ErrorKind::kData, fmt::format("{}: {}", path.string(), message));
}

std::uint32_t read_word(const std::byte* at) {
  std::uint32_t word = 0;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

void refuse_foreign(const core::MappedFile& file) {
  for (const ForeignFile& foreign : kForeignFiles) {
    const std::size_t n = foreign.first_bytes.size();
    if (file.size() >= n && std::memcmp(file.data(), foreign.first_bytes.data(), n) == 0)
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

template <typename T>
const T* first_beyond(const T* begin, const T* end, std::uint64_t vocab) {
  // The common case, no such id, is one vectorised maximum; only then is the place looked for.
  T largest = 0;
  for (const T* p = begin; p != end; ++p)
    largest = std::max(largest, *p);
  if (largest < vocab) return end;
  return std::find_if(begin, end, [vocab](T id) { return id >= vocab; });
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

std::uint64_t sampled_hash(std::span<const std::byte> bytes) {
  const std::uint64_t size = bytes.size();
  core::StreamingHash hash;
  hash.update(&size, sizeof(size));
  const std::size_t end_bytes = std::min(size, kEndBytes);
  if (size > 0) {
    hash.update(bytes.data(), end_bytes);
    hash.update(bytes.data() + (size - end_bytes), end_bytes);
    const std::uint64_t width = std::min(size, kSampleBytes);
    for (std::uint64_t i = 0; i < kSamples; ++i)
      hash.update(bytes.data() + i * (size - width) / (kSamples - 1), width);
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
  if (tokens_ != wanted)
    fail(path(), fmt::format("expected {} tokens as {} says, found {}: the file was truncated or "
                             "altered; prepare the data again",
                             wanted, kMetaFile, tokens_));
}

void TokenFile::open_plain(DType raw_type) {
  refuse_foreign(file_);
  const std::uint32_t magic = file_.size() >= sizeof(std::uint32_t) ? read_word(file_.data()) : 0;
  if (magic == kLlmcMagic16 || magic == kLlmcMagic32) {
    read_llmc_header(magic);
    return;
  }
  token_type_ = raw_type;
  set_raw_tokens();
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
  const std::uint32_t version = read_word(file_.data() + 4);
  if (version != kLlmcVersion)
    fail(path(), fmt::format("expected version {} in llm.c's header (magic {}), found {}; write "
                             "the file again with llm.c's current data scripts",
                             kLlmcVersion, magic, version));
  tokens_ = read_word(file_.data() + 8);
  const std::uint64_t wanted = kLlmcHeaderBytes + tokens_ * core::size_of(token_type_);
  if (tokens_ == 0) fail(path(), "expected token ids, found a header that counts 0 tokens");
  if (file_.size() != wanted)
    fail(path(), fmt::format("expected {} bytes ({} {} tokens as llm.c's header says), found {}: "
                             "the file is {}; copy or write it again",
                             wanted, tokens_, token_type_name(token_type_), file_.size(),
                             file_.size() < wanted ? "truncated" : "longer than its header says"));
}

void TokenFile::read(std::uint64_t first, std::span<std::int32_t> out) const {
  LOCKSTEP_CHECK(first <= tokens_ && out.size() <= tokens_ - first, "tokens [{}, +{}) of {} in {}",
                 first, out.size(), tokens_, path().string());
  if (token_type_ == DType::kU16) {
    const auto* from = reinterpret_cast<const std::uint16_t*>(token_bytes()) + first;
    std::copy(from, from + out.size(), out.begin());
  } else {
    std::memcpy(out.data(), token_bytes() + first * 4, out.size() * 4);
  }
}

TokenFile::IdRange TokenFile::id_range() const {
  const auto range = [&]<typename T>(const T* ids) {
    T smallest = ids[0];
    T largest = ids[0];
    for (std::uint64_t i = 0; i < tokens_; ++i) {
      smallest = std::min(smallest, ids[i]);
      largest = std::max(largest, ids[i]);
    }
    return IdRange{smallest, largest};
  };
  return token_type_ == DType::kU16 ? range(reinterpret_cast<const std::uint16_t*>(token_bytes()))
                                    : range(reinterpret_cast<const std::uint32_t*>(token_bytes()));
}

void TokenFile::check_ids(std::uint64_t first, std::uint64_t count, std::int64_t vocab) const {
  LOCKSTEP_CHECK(first <= tokens_ && count <= tokens_ - first, "tokens [{}, +{}) of {} in {}",
                 first, count, tokens_, path().string());
  const auto check = [&]<typename T>(const T* ids) {
    for (std::uint64_t begin = first; begin < first + count; begin += kChunkTokens) {
      const std::uint64_t end = std::min(begin + kChunkTokens, first + count);
      const T* bad = first_beyond(ids + begin, ids + end, static_cast<std::uint64_t>(vocab));
      if (bad == ids + end) continue;
      fail(path(), fmt::format("expected token ids below model.vocab = {}, found id {} at token {} "
                               "(byte {}); raise model.vocab, set data.token_type (read as {}), "
                               "or use data made with this model's tokenizer",
                               vocab, *bad, bad - ids,
                               header_bytes_ + static_cast<std::uint64_t>(bad - ids) * sizeof(T),
                               token_type_name(token_type_)));
    }
  };
  if (token_type_ == DType::kU16) {
    check(reinterpret_cast<const std::uint16_t*>(token_bytes()));
  } else {
    check(reinterpret_cast<const std::uint32_t*>(token_bytes()));
  }
}

DataFingerprint TokenFile::fingerprint() const {
  return {name_, file_.size(), sampled_hash(file_.bytes())};
}

namespace {

// Ends with globfree whatever happens to the matches meanwhile.
struct GlobMatches {
  glob_t matches{};
  ~GlobMatches() { ::globfree(&matches); }
};

void add_matches(const std::string& pattern, std::vector<fs::path>& paths) {
  GlobMatches found;
  const int status = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &found.matches);
  if (status == GLOB_NOMATCH) {
    const bool is_pattern = pattern.find_first_of("*?[") != std::string::npos;
    fail(pattern, is_pattern ? "expected a pattern that matches a token file, found no match"
                             : "expected a token file or a directory made by `lockstep data "
                               "prepare`, found nothing there");
  }
  if (status != 0) fail(pattern, "expected a readable folder, found one that could not be listed");
  for (std::size_t i = 0; i < found.matches.gl_pathc; ++i)
    paths.emplace_back(found.matches.gl_pathv[i]);
}

}  // namespace

std::vector<fs::path> expand_sources(const std::vector<std::string>& sources) {
  std::vector<fs::path> paths;
  for (const std::string& source : sources) {
    std::error_code ignored;
    if (fs::exists(source, ignored)) {
      paths.emplace_back(source);
    } else {
      add_matches(source, paths);
    }
  }
  std::sort(paths.begin(), paths.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  const auto twice = std::adjacent_find(paths.begin(), paths.end());
  if (twice != paths.end())
    fail(*twice, "expected every file once, found it named twice (by a path and a pattern, say)");
  return paths;
}

std::vector<TokenFile> open_token_files(const std::vector<std::string>& sources, DType raw_type,
                                        DataSplit split) {
  std::vector<TokenFile> files;
  for (const fs::path& path : expand_sources(sources))
    files.emplace_back(path, raw_type, split);
  return files;
}

}  // namespace lockstep::runtime
