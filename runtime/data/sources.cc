#include "runtime/data/sources.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace lockstep::runtime {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const std::string& message) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", path.string(), message));
}

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
  std::vector<fs::path> matches;
  for (std::size_t i = 0; i < found.matches.gl_pathc; ++i) {
    matches.emplace_back(found.matches.gl_pathv[i]);
    if (matches.back().extension() == kMaskExtension) matches.pop_back();
  }
  if (matches.empty()) fail(pattern, "expected a pattern that matches a token file, found masks");
  std::sort(matches.begin(), matches.end(), [](const fs::path& a, const fs::path& b) {
    return natural_less(a.native(), b.native());
  });
  paths.insert(paths.end(), matches.begin(), matches.end());
}

// The run of digits that begins at `at`, without leading zeros, and its end.
std::string_view number_at(std::string_view text, std::size_t at, std::size_t& end) {
  const std::size_t stop = text.find_first_not_of("0123456789", at);
  end = stop == text.npos ? text.size() : stop;
  std::size_t begin = at;
  while (begin + 1 < end && text[begin] == '0')
    ++begin;
  return text.substr(begin, end - begin);
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
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
  std::set<fs::path> seen;
  for (const fs::path& path : paths) {
    if (!seen.insert(path).second)
      fail(path, "expected every file once, found it named twice (by a path and a pattern, say)");
  }
  return paths;
}

bool natural_less(std::string_view a, std::string_view b) {
  std::size_t i = 0;
  std::size_t j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const std::string_view x = number_at(a, i, i);
      const std::string_view y = number_at(b, j, j);
      if (x != y) return std::pair(x.size(), x) < std::pair(y.size(), y);
    } else if (a[i] != b[j]) {
      return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
    } else {
      ++i;
      ++j;
    }
  }
  const std::size_t rest_a = a.size() - i;
  const std::size_t rest_b = b.size() - j;
  return rest_a != rest_b ? rest_a < rest_b : a < b;
}

}  // namespace lockstep::runtime
