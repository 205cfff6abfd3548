#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"
#include "runtime/data/prepared_meta.h"

namespace lockstep::runtime {

// Texts read as one: the inputs in the order given; of a directory all regular files below it,
// sorted by path bytewise, hidden ones (names starting with a dot) left out. Where a text does not
// end in a newline and another follows, one is put between them. Memory-mapped; any bytes.
class Corpus {
 public:
  // Throws Error(kData) for an input that is missing or unreadable, for a directory without files,
  // for a file named twice, and when all texts are empty.
  explicit Corpus(const std::vector<std::filesystem::path>& inputs);

  std::uint64_t bytes() const { return bytes_; }

  // The files' contents, in reading order, without the newlines put between them.
  std::vector<std::string_view> texts() const;

  // In reading order; a file below a directory is named by its path from there.
  std::vector<SourceText> sources() const;

  // The line boundary (a position right after a newline, neither the beginning nor the end of the
  // text) nearest to `target`, the earlier one of two. Throws Error(kData) if the text has none.
  std::uint64_t nearest_line_boundary(std::uint64_t target) const;

  // Calls `visit` with the text [begin, end), piece by piece, each but those before a file's end
  // or before `end` ending with a line if a line ends within twice the usual piece of 1 MiB.
  void visit(std::uint64_t begin, std::uint64_t end,
             const std::function<void(std::string_view)>& visit) const;

 private:
  struct Text {
    core::MappedFile file;
    std::string name;
  };
  void add(const std::filesystem::path& file, const std::string& name);
  void add_directory(const std::filesystem::path& directory);
  void lay_out();

  std::vector<Text> texts_;
  std::vector<std::string_view> pieces_;  // the texts and the newlines between them
  std::vector<std::uint64_t> begins_;     // of the pieces, in the whole text
  std::uint64_t bytes_ = 0;
};

}  // namespace lockstep::runtime
