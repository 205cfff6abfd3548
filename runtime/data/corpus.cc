#include "runtime/data/corpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "core/check.h"
#include "core/error.h"
#include "core/hash.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPieceBytes = 1 << 20;
constexpr std::string_view kNewline = "\n";

[[noreturn]] void fail(const std::string& place, const std::string& message) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", place, message));
}

std::string_view text_of(const core::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

std::vector<fs::path> files_below(const fs::path& directory) {
  std::vector<fs::path> files;
  try {
    for (fs::recursive_directory_iterator at(directory), end; at != end; ++at) {
      if (at->path().filename().string().starts_with('.')) {
        if (at->is_directory()) at.disable_recursion_pending();
      } else if (at->is_regular_file()) {
        files.push_back(at->path());
      }
    }
  } catch (const fs::filesystem_error& error) {
    fail(directory.string(), fmt::format("expected a readable folder: {}", error.what()));
  }
  std::sort(files.begin(), files.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return files;
}

}  // namespace

Corpus::Corpus(const std::vector<fs::path>& inputs) {
  for (const fs::path& input : inputs) {
    std::error_code ignored;
    if (fs::is_directory(input, ignored)) {
      add_directory(input);
    } else {
      add(input, input.filename().string());
    }
  }
  std::set<fs::path> seen;
  for (const Text& text : texts_)
    if (!seen.insert(fs::canonical(text.file.path())).second)
      fail(text.file.path().string(), "expected every input once, found this file twice");
  lay_out();
  if (bytes_ == 0)
    fail(inputs.empty() ? "--input" : inputs.front().string(),
         "expected some text, found only empty files");
}

void Corpus::add(const fs::path& file, const std::string& name) {
  texts_.push_back({core::MappedFile(file), name});
}

void Corpus::add_directory(const fs::path& directory) {
  const std::vector<fs::path> files = files_below(directory);
  if (files.empty())
    fail(directory.string(),
         "expected text files below this folder, found none (hidden files are "
         "left out)");
  for (const fs::path& file : files)
    add(file, file.lexically_relative(directory).string());
}

void Corpus::lay_out() {
  bool open_line = false;  // the text so far does not end in a newline
  const auto append = [this](std::string_view piece) {
    pieces_.push_back(piece);
    begins_.push_back(bytes_);
    bytes_ += piece.size();
  };
  for (const Text& text : texts_) {
    const std::string_view piece = text_of(text.file);
    if (piece.empty()) continue;
    if (open_line) append(kNewline);
    append(piece);
    open_line = !piece.ends_with('\n');
  }
}

std::vector<std::string_view> Corpus::texts() const {
  std::vector<std::string_view> texts;
  for (const Text& text : texts_)
    texts.push_back(text_of(text.file));
  return texts;
}

std::vector<SourceText> Corpus::sources() const {
  std::vector<SourceText> sources;
  for (const Text& text : texts_)
    sources.push_back({text.name, text.file.size(), core::hash64(text_of(text.file))});
  return sources;
}

std::uint64_t Corpus::nearest_line_boundary(std::uint64_t target) const {
  std::optional<std::uint64_t> before;  // the last one <= target
  std::optional<std::uint64_t> after;   // the first one > target
  for (std::size_t i = 0; i < pieces_.size() && !after; ++i) {
    const std::string_view piece = pieces_[i];
    // A newline at position n makes a boundary at n + 1, hence newlines below `split` count as
    // before.
    const std::uint64_t split =
        std::clamp<std::uint64_t>(target, begins_[i], begins_[i] + piece.size()) - begins_[i];
    const std::size_t last = split == 0 ? piece.npos : piece.rfind('\n', split - 1);
    const std::size_t first = piece.find('\n', split);
    if (last != piece.npos) before = begins_[i] + last + 1;
    if (first != piece.npos) after = begins_[i] + first + 1;
  }
  if (after == bytes_) after.reset();
  if (before == bytes_) {  // target is the very end: the boundary before the last line
    before.reset();
    if (bytes_ > 1) return nearest_line_boundary(bytes_ - 1);
  }
  if (!before && !after)
    fail(texts_.front().file.path().string(),
         "expected a line boundary at which to cut off the validation text, found a single line; "
         "give --validation-fraction 0 and prepare validation text from a file of its own");
  if (!before) return *after;
  if (!after) return *before;
  return target - *before <= *after - target ? *before : *after;
}

void Corpus::visit(std::uint64_t begin, std::uint64_t end,
                   const std::function<void(std::string_view)>& visit) const {
  LOCKSTEP_CHECK(begin <= end && end <= bytes_, "text [{}, {}) of {}", begin, end, bytes_);
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    const std::uint64_t piece_end = begins_[i] + pieces_[i].size();
    if (piece_end <= begin || begins_[i] >= end) continue;
    const std::uint64_t first = std::max(begin, begins_[i]) - begins_[i];
    std::string_view rest = pieces_[i].substr(first, std::min(end, piece_end) - begins_[i] - first);
    while (!rest.empty()) {
      std::size_t n = std::min(rest.size(), kPieceBytes);
      if (n < rest.size()) {
        const std::size_t newline = rest.substr(0, 2 * kPieceBytes).find('\n', n - 1);
        if (newline != rest.npos) n = newline + 1;
      }
      visit(rest.substr(0, n));
      rest.remove_prefix(n);
    }
  }
}

}  // namespace lockstep::runtime
