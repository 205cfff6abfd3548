#include "runtime/data/prepare.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/input_file.h"
#include "runtime/data/corpus.h"
#include "runtime/data/json_lines.h"
#include "runtime/data/tokenizer/tokenizer.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;
using core::Error;
using core::ErrorKind;

constexpr std::array<const char*, 3> kFiles = {kTrainFile, kValidationFile, kMetaFile};
constexpr std::int64_t kLargestUint16Vocab = 65536;

[[noreturn]] void fail(ErrorKind kind, const fs::path& path, const std::string& message) {
  throw Error(kind, fmt::format("{}: {}", path.string(), message));
}

[[noreturn]] void fail_to_write(const fs::path& path) {
  const std::string reason = std::generic_category().message(errno);
  fail(ErrorKind::kData, path, fmt::format("cannot be written: {}", reason));
}

// A file being written; synced and closed by finish().
class OutputFile {
 public:
  explicit OutputFile(fs::path path) : path_(std::move(path)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail_to_write(path_);
  }
  ~OutputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* data, std::size_t bytes) {
    const auto* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t n = ::write(descriptor_, from, bytes);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_to_write(path_);
      from += n;
      bytes -= static_cast<std::size_t>(n);
    }
  }

  void finish() {
    if (::fsync(descriptor_) != 0) fail_to_write(path_);
    if (::close(std::exchange(descriptor_, -1)) != 0) fail_to_write(path_);
  }

 private:
  fs::path path_;
  int descriptor_ = -1;
};

void sync_directory(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_to_write(path);
  const int status = ::fsync(descriptor);
  ::close(descriptor);
  if (status != 0) fail_to_write(path);
}

// Tokens to a file, in the type of the directory.
class TokenWriter {
 public:
  TokenWriter(const fs::path& path, core::DType token_type) : file_(path), type_(token_type) {}

  void write(const std::vector<std::int32_t>& ids) {
    tokens_ += ids.size();
    if (type_ == core::DType::kU32) {
      file_.write(ids.data(), ids.size() * sizeof(std::uint32_t));
      return;
    }
    narrow_.resize(ids.size());
    std::transform(ids.begin(), ids.end(), narrow_.begin(),
                   [](std::int32_t id) { return static_cast<std::uint16_t>(id); });
    file_.write(narrow_.data(), narrow_.size() * sizeof(std::uint16_t));
  }

  // The number of tokens.
  std::uint64_t finish() {
    file_.finish();
    return tokens_;
  }

 private:
  OutputFile file_;
  core::DType type_;
  std::vector<std::uint16_t> narrow_;
  std::uint64_t tokens_ = 0;
};

// Encodes the text [begin, end) into a file of its own; gives the number of tokens. The tokens are
// those of the text encoded as a whole: it is cut only where the tokenizer allows it.
std::uint64_t write_tokens(const Corpus& corpus, std::uint64_t begin, std::uint64_t end,
                           const Tokenizer& tokenizer, core::DType token_type,
                           const fs::path& path) {
  constexpr std::size_t kPieceBytes = 1 << 20;
  TokenWriter writer(path, token_type);
  std::string waiting;
  std::size_t wanted = kPieceBytes;
  corpus.visit(begin, end, [&](std::string_view text) {
    waiting += text;
    if (waiting.size() < wanted) return;
    const std::size_t cut = tokenizer.cut_before(waiting, waiting.size() - 1);
    wanted = cut == 0 ? 2 * waiting.size() : kPieceBytes;
    if (cut == 0) return;
    writer.write(tokenizer.encode(std::string_view(waiting).substr(0, cut)));
    waiting.erase(0, cut);
  });
  writer.write(tokenizer.encode(waiting));
  return writer.finish();
}

// Documents, each to one of the two files.
class DocumentWriter {
 public:
  DocumentWriter(const fs::path& directory, const PrepareOptions& options,
                 const Tokenizer& tokenizer, core::DType token_type)
      : tokenizer_(tokenizer),
        fraction_(options.validation_fraction),
        train_(directory / kTrainFile, token_type) {
    if (fraction_ > 0) validation_.emplace(directory / kValidationFile, token_type);
  }

  // The same document always goes to the same file.
  void add(std::string_view document) {
    if (document.empty()) return;
    const double place = static_cast<double>(core::hash64(document)) * 0x1p-64;
    TokenWriter& file = place < fraction_ ? *validation_ : train_;
    std::vector<std::int32_t> ids = tokenizer_.encode(document);
    const std::vector<std::int32_t> end =
        tokenizer_.end_of_text() ? std::vector{*tokenizer_.end_of_text()} : tokenizer_.encode("\n");
    ids.insert(ids.end(), end.begin(), end.end());
    file.write(ids);
  }

  void finish(PreparedMeta& meta) {
    meta.train_tokens = train_.finish();
    if (validation_) meta.validation_tokens = validation_->finish();
    if (meta.train_tokens == 0 || (validation_ && meta.validation_tokens == 0))
      throw Error(ErrorKind::kData,
                  fmt::format("--validation-fraction {}: expected documents to train on and to "
                              "validate on, found none to {} on; use more documents, another "
                              "fraction, or 0 and a file of its own",
                              fraction_, meta.train_tokens == 0 ? "train" : "validate"));
  }

 private:
  const Tokenizer& tokenizer_;
  double fraction_;
  TokenWriter train_;
  std::optional<TokenWriter> validation_;
};

bool is_json_lines(const SourceText& source) {
  return source.name.ends_with(".jsonl");
}

void write_documents(const Corpus& corpus, const PrepareOptions& options,
                     const Tokenizer& tokenizer, const fs::path& directory, PreparedMeta& meta) {
  DocumentWriter writer(directory, options, tokenizer, meta.token_type);
  const std::vector<std::string_view> texts = corpus.texts();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!is_json_lines(meta.sources[i])) {
      writer.add(texts[i]);
      continue;
    }
    visit_json_lines(texts[i], meta.sources[i].name,
                     [&](const nlohmann::json& object, const std::string& place) {
                       writer.add(text_of_field(object, options.text_field, place));
                     });
  }
  writer.finish(meta);
}

void write_text(const Corpus& corpus, const PrepareOptions& options, const Tokenizer& tokenizer,
                const fs::path& directory, PreparedMeta& meta) {
  std::uint64_t cut = corpus.bytes();
  if (options.validation_fraction > 0) {
    const double kept = static_cast<double>(corpus.bytes()) * (1.0 - options.validation_fraction);
    cut = corpus.nearest_line_boundary(static_cast<std::uint64_t>(std::llround(kept)));
    meta.validation_tokens = write_tokens(corpus, cut, corpus.bytes(), tokenizer, meta.token_type,
                                          directory / kValidationFile);
  }
  meta.train_tokens =
      write_tokens(corpus, 0, cut, tokenizer, meta.token_type, directory / kTrainFile);
}

PreparedMeta write_directory(const Corpus& corpus, const PrepareOptions& options,
                             const Tokenizer& tokenizer, const fs::path& directory) {
  PreparedMeta meta;
  meta.tokenizer = tokenizer.description();
  meta.vocab = tokenizer.vocab();
  meta.token_type = meta.vocab <= kLargestUint16Vocab ? core::DType::kU16 : core::DType::kU32;
  meta.sources = corpus.sources();
  if (std::any_of(meta.sources.begin(), meta.sources.end(), is_json_lines)) {
    write_documents(corpus, options, tokenizer, directory, meta);
  } else {
    write_text(corpus, options, tokenizer, directory, meta);
  }
  const std::string text = to_json(meta);
  OutputFile file(directory / kMetaFile);
  file.write(text.data(), text.size());
  file.finish();
  sync_directory(directory);
  return meta;
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  const bool exists = fs::exists(a, ignored);
  if (exists != fs::exists(b, ignored)) return false;
  if (!exists) return true;
  const core::InputFile first(a);
  const core::InputFile second(b);
  return first.size() == second.size() && first.hash() == second.hash();
}

bool same_directory(const fs::path& a, const fs::path& b) {
  return std::all_of(kFiles.begin(), kFiles.end(),
                     [&](const char* name) { return same_file(a / name, b / name); });
}

// What else lies in a directory that would be replaced; empty when nothing does.
std::string foreign_entry(const fs::path& directory) {
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (std::find(kFiles.begin(), kFiles.end(), name) == kFiles.end()) return name;
  }
  return "";
}

// Puts the finished directory in its place.
void publish(const fs::path& finished, const fs::path& output, Overwrite overwrite) {
  std::error_code ignored;
  if (!fs::exists(output, ignored) || fs::is_empty(output, ignored)) {
    // rename(2) replaces an empty directory.
    if (::rename(finished.c_str(), output.c_str()) != 0) fail_to_write(output);
    return;
  }
  if (overwrite == Overwrite::kRefuse)
    fail(ErrorKind::kConfig, output,
         "expected a new directory, found one with other contents; give --force to replace it, or "
         "another --output");
  if (const std::string entry = foreign_entry(output); !entry.empty())
    fail(ErrorKind::kConfig, output,
         fmt::format("expected a prepared directory to replace, found \"{}\" in it, which --force "
                     "would delete; give another --output",
                     entry));
  // Exchanged in one step where the file system can, so that no reader finds the name missing.
  if (::renameat2(AT_FDCWD, finished.c_str(), AT_FDCWD, output.c_str(), RENAME_EXCHANGE) == 0)
    return;
  const fs::path old = finished.string() + ".old";
  if (::rename(output.c_str(), old.c_str()) != 0) fail_to_write(output);
  if (::rename(finished.c_str(), output.c_str()) != 0) fail_to_write(output);
  fs::remove_all(old);
}

void check_options(const PrepareOptions& options) {
  const double fraction = options.validation_fraction;
  if (!(fraction >= 0.0 && fraction < 1.0))
    throw Error(
        ErrorKind::kConfig,
        fmt::format("--validation-fraction: expected a number in [0, 1), found {}", fraction));
  if (options.inputs.empty())
    throw Error(ErrorKind::kConfig, "--input: expected at least one file or folder, found none");
  std::error_code ignored;
  if (fs::exists(options.output, ignored) && !fs::is_directory(options.output, ignored))
    fail(ErrorKind::kConfig, options.output, "expected a directory as --output, found a file");
  const fs::path output = fs::weakly_canonical(options.output);
  for (const fs::path& input : options.inputs) {
    const fs::path inside = output.lexically_relative(fs::weakly_canonical(input));
    if (!inside.empty() && *inside.begin() != "..")
      fail(ErrorKind::kConfig, options.output,
           fmt::format("expected an --output outside the --input {}, found it inside: a second run "
                       "would read its own output",
                       input.string()));
  }
}

// The directory under construction, removed however the scope is left (after publish: what it was
// exchanged for, if anything).
struct Construction {
  fs::path path;
  ~Construction() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

}  // namespace

PrepareResult prepare_data(const PrepareOptions& options) {
  check_options(options);
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(options.tokenizer);
  const Corpus corpus(options.inputs);
  // Without a trailing slash, so that the temporary name lies beside it.
  const fs::path output =
      options.output.has_filename() ? options.output : options.output.parent_path();
  const fs::path parent = fs::absolute(output).parent_path();
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) fail(ErrorKind::kData, parent, "cannot be made: " + error.message());
  const Construction construction{fmt::format("{}.tmp-{}", output.string(), ::getpid())};
  fs::remove_all(construction.path, error);
  if (!fs::create_directory(construction.path, error))
    fail(ErrorKind::kData, construction.path, "cannot be made: " + error.message());
  PrepareResult result;
  result.meta = write_directory(corpus, options, *tokenizer, construction.path);
  result.unchanged = same_directory(construction.path, output);
  if (result.unchanged) return result;
  publish(construction.path, output, options.overwrite);
  sync_directory(parent);
  return result;
}

}  // namespace lockstep::runtime
