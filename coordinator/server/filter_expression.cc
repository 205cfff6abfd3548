#include "coordinator/server/filter_expression.h"

#include <fmt/format.h>

#include <utility>

#include "core/error.h"

namespace lockstep::coordinator {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}
bool begins_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool in_word(char c) {
  return begins_word(c) || (c >= '0' && c <= '9') || c == '/' || c == '-';
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  FilterNode parse() {
    skip_space();
    if (at_end()) return {};
    FilterNode root = expression(0);
    if (!at_end()) fail("nothing more, or an operator");
    return root;
  }

 private:
  [[noreturn]] void fail(std::string_view expected) const {
    const std::string found =
        at_end() ? "the end" : fmt::format("'{}'", text_.substr(position_, 12));
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("filter, column {}: expected {}, found {}", position_ + 1, expected, found));
  }

  bool at_end() const { return position_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[position_]; }
  void skip_space() {
    while (!at_end() && is_space(text_[position_]))
      ++position_;
  }

  std::string_view peek_word() const {
    std::size_t end = position_;
    if (end < text_.size() && begins_word(text_[end])) {
      while (end < text_.size() && in_word(text_[end]))
        ++end;
    }
    return text_.substr(position_, end - position_);
  }

  bool take_keyword(std::string_view keyword) {
    if (peek_word() != keyword) return false;
    position_ += keyword.size();
    skip_space();
    return true;
  }

  bool term_follows() const {
    const std::string_view word = peek_word();
    return peek() == '(' || peek() == '-' || (!word.empty() && word != "AND" && word != "OR");
  }

  static FilterNode joined(FilterNode::Kind kind, std::vector<FilterNode> parts) {
    if (parts.size() == 1) return std::move(parts.front());
    FilterNode node;
    node.kind = kind;
    node.children = std::move(parts);
    return node;
  }

  FilterNode expression(int depth) {
    std::vector<FilterNode> parts;
    parts.push_back(factor(depth));
    while (true) {
      if (take_keyword("AND") || term_follows()) {
        parts.push_back(factor(depth));
      } else {
        return joined(FilterNode::Kind::kAnd, std::move(parts));
      }
    }
  }

  FilterNode factor(int depth) {
    std::vector<FilterNode> parts;
    parts.push_back(term(depth));
    while (take_keyword("OR"))
      parts.push_back(term(depth));
    return joined(FilterNode::Kind::kOr, std::move(parts));
  }

  FilterNode term(int depth) {
    if (depth > kMaxFilterDepth) fail(fmt::format("at most {} levels", kMaxFilterDepth));
    bool negated = take_keyword("NOT");
    if (!negated && peek() == '-') {
      ++position_;
      negated = true;
    }
    FilterNode node = peek() == '(' ? parenthesis(depth) : comparison();
    skip_space();
    if (!negated) return node;
    FilterNode wrapper;
    wrapper.kind = FilterNode::Kind::kNot;
    wrapper.children.push_back(std::move(node));
    return wrapper;
  }

  FilterNode parenthesis(int depth) {
    ++position_;
    skip_space();
    FilterNode node = expression(depth + 1);
    if (peek() != ')') fail("')'");
    ++position_;
    return node;
  }

  FilterNode comparison() {
    if (++terms_ > kMaxFilterTerms) fail(fmt::format("at most {} comparisons", kMaxFilterTerms));
    FilterNode node;
    node.kind = FilterNode::Kind::kCompare;
    node.column = position_ + 1;
    node.field = peek_word();
    if (node.field.empty() || node.field == "AND" || node.field == "OR") fail("a field");
    position_ += node.field.size();
    while (peek() == '.') {
      ++position_;
      if (!node.member.empty()) node.member += '.';
      node.member += member();
    }
    skip_space();
    node.op = comparison_operator();
    skip_space();
    node.value = value();
    return node;
  }

  std::string member() {
    if (peek() == '"' || peek() == '\'') return quoted();
    const std::string word(peek_word());
    if (word.empty()) fail("a name behind '.'");
    position_ += word.size();
    return word;
  }

  FilterNode::Operator comparison_operator() {
    using Operator = FilterNode::Operator;
    static constexpr std::pair<std::string_view, Operator> kOperators[] = {
        {"!=", Operator::kNotEqual}, {"<=", Operator::kLessEqual}, {">=", Operator::kGreaterEqual},
        {"=", Operator::kEqual},     {"<", Operator::kLess},       {">", Operator::kGreater},
        {":", Operator::kHas}};
    for (const auto& [text, op] : kOperators) {
      if (text_.substr(position_).starts_with(text)) {
        position_ += text.size();
        return op;
      }
    }
    fail("one of = != < <= > >= :");
  }

  std::string value() {
    if (peek() == '"' || peek() == '\'') return quoted();
    const std::size_t begin = position_;
    while (!at_end() && !is_space(peek()) && peek() != '(' && peek() != ')')
      ++position_;
    if (position_ == begin) fail("a value");
    return std::string(text_.substr(begin, position_ - begin));
  }

  std::string quoted() {
    const char quote = peek();
    const std::size_t begin = position_++;
    std::string result;
    while (!at_end() && peek() != quote) {
      if (peek() == '\\' && position_ + 1 < text_.size()) ++position_;
      result += text_[position_++];
    }
    if (at_end()) {
      position_ = begin;
      fail("a string with its closing quote");
    }
    ++position_;
    return result;
  }

  std::string_view text_;
  std::size_t position_ = 0;
  int terms_ = 0;
};

}  // namespace

FilterNode parse_filter(std::string_view text) {
  if (text.size() > kMaxFilterBytes) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("filter: expected at most {} bytes, found {}", kMaxFilterBytes, text.size()));
  }
  return Parser(text).parse();
}

}  // namespace lockstep::coordinator
