#include "runtime/config/document.h"

#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "runtime/config/nearest.h"

namespace lockstep::runtime {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw core::Error(core::ErrorKind::kConfig, message);
}

Location from_mark(const std::string& source, const YAML::Mark& mark) {
  return {source, mark.line + 1, mark.column + 1};
}

// Refuses what LoadAll would take or choke on: it reads a second document, and where a stray '}'
// begins one it makes documents for ever.
class OneDocument : public YAML::EventHandler {
 public:
  explicit OneDocument(const std::string& source) : source_(source) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 1) return;
    fail(from_mark(source_, mark).text() +
         ": a second YAML document begins here (or a stray bracket or comma stands here); a "
         "configuration is one document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

 private:
  const std::string& source_;
  int documents_ = 0;
};

// The first line that begins with blanks among which is a tab, from 1; 0: none.
int line_indented_by_tab(std::string_view text) {
  int number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view blanks = text.substr(0, std::min(text.find_first_not_of(" \t"), end));
    if (blanks.find('\t') != blanks.npos) return number;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return 0;
}

std::string join_path(const std::string& section, const std::string& name) {
  return section.empty() ? name : section + "." + name;
}

// Text before and after the first '='.
std::pair<std::string, std::string> split_assignment(const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    fail("--set " + assignment + ": expected path.to.key=value, e.g. --set train.steps=100");
  }
  return {assignment.substr(0, equals), assignment.substr(equals + 1)};
}

}  // namespace

YAML::Node read_one_document(std::string_view text, const std::string& source) {
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    OneDocument check(source);
    while (parser.HandleNextDocument(check)) {
    }
    return YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    const Location where =
        error.mark.is_null() ? Location{source, 0, 0} : from_mark(source, error.mark);
    const int tab = line_indented_by_tab(text);
    fail(where.text() + ": not valid YAML: " +
         (tab > 0 ? "line " + std::to_string(tab) + " is indented with a tab; write spaces"
                  : error.msg));
  }
}

std::string describe_node(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a map";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar: {
      constexpr std::size_t kLongest = 60;
      const std::string text = node.Scalar();
      return "'" + (text.size() > kLongest ? text.substr(0, kLongest) + "..." : text) + "'";
    }
    case YAML::NodeType::Null:
    case YAML::NodeType::Undefined:
      break;
  }
  return "nothing";
}

Document::Document(std::string_view text, const std::string& source, Problems& problems)
    : source_(source) {
  const YAML::Node root = read_one_document(text, source);
  if (root.IsNull())
    fail(source + ": the file is empty; expected a map of sections such as model:");
  if (!root.IsMap()) {
    fail(from_mark(source, root.Mark()).text() +
         ": expected a map of sections such as model:, found " + describe_node(root));
  }
  sections_[""] = Location{source, 1, 1};
  read_map(root, "", problems);
}

Location Document::location_of(const YAML::Node& node, const Location& fallback) const {
  if (!override_.empty()) return {override_, 0, 0};
  const YAML::Mark mark = node.Mark();
  if (mark.is_null() || node.IsNull()) return fallback;
  return from_mark(source_, mark);
}

void Document::read_map(const YAML::Node& map, const std::string& section, Problems& problems) {
  std::map<std::string, Location> seen;
  for (const auto& item : map) {
    const Location where = location_of(item.first, sections_[section]);
    if (!item.first.IsScalar()) {
      problems.add(where, section, "a key must be a word, found " + describe_node(item.first));
      continue;
    }
    const std::string path = join_path(section, item.first.Scalar());
    const auto [earlier, is_new] = seen.emplace(path, where);
    if (!is_new) {
      problems.add(where, path,
                   "duplicate key; it was given at " + earlier->second.text() +
                       " already, remove one of the two");
      continue;
    }
    read_pair(item.first, item.second, path, problems);
  }
}

void Document::read_pair(const YAML::Node& name, const YAML::Node& value, const std::string& path,
                         Problems& problems) {
  const Location key_where = location_of(name, {source_, 0, 0});
  const Location where = location_of(value, key_where);
  if (value.Tag().size() > 1 && value.Tag().front() == '!') {
    problems.add(where, path, "the tag '" + value.Tag() + "' means nothing here; take it out");
  } else if (const Key* key = find_key(path)) {
    const auto earlier = entries_.find(path);
    if (override_.empty() && earlier != entries_.end()) {
      problems.add(key_where, path,
                   "duplicate key; it was given at " + earlier->second.key_where.text() +
                       " already, remove one of the two");
      return;
    }
    entries_[path] = Entry{key, value, key_where, where};
  } else if (is_section(path)) {
    sections_.emplace(path, key_where);
    if (value.IsMap()) {
      read_map(value, path, problems);
    } else if (!value.IsNull()) {
      problems.add(where, path,
                   "expected a map of keys (" + join_words(names_in(path)) + "), found " +
                       describe_node(value));
    }
  } else {
    problems.add(key_where, path, explain_unknown_key(path));
  }
}

void Document::remove(const std::string& path) {
  const std::string below = path + ".";
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const bool hit = entry->first == path || entry->first.starts_with(below);
    entry = hit ? entries_.erase(entry) : std::next(entry);
  }
}

void Document::apply_override(const std::string& assignment, Problems& problems) {
  override_ = "--set " + assignment;
  const auto [path, text] = split_assignment(assignment);
  const YAML::Node value = read_one_document(text, override_);
  if (text.find_first_not_of(" \t") == std::string::npos) {
    problems.add({override_, 0, 0}, path, "no value after '='; null takes the key out of the file");
  } else if (find_key(path) == nullptr && !is_section(path)) {
    problems.add({override_, 0, 0}, path, explain_unknown_key(path));
  } else if (value.IsNull()) {
    remove(path);
  } else {
    read_pair(YAML::Node(path), value, path, problems);
  }
  override_.clear();
}

const Entry* Document::find(const std::string& path) const {
  const auto entry = entries_.find(path);
  return entry == entries_.end() ? nullptr : &entry->second;
}

Location Document::where(const std::string& path) const {
  if (const Entry* entry = find(path)) return entry->where;
  for (std::string section = path; !section.empty();) {
    const std::size_t dot = section.rfind('.');
    section = dot == std::string::npos ? std::string() : section.substr(0, dot);
    const auto found = sections_.find(section);
    if (found != sections_.end()) return found->second;
  }
  return {source_, 1, 1};
}

}  // namespace lockstep::runtime
