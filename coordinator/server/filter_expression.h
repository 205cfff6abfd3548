#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::coordinator {

// The grammar of `filter` (a subset of AIP-160, with its precedence: OR binds tighter than AND):
//
//   filter     = [ expression ]
//   expression = sequence { "AND" sequence }
//   sequence   = factor { factor }                 (juxtaposition means AND)
//   factor     = term { "OR" term }
//   term       = [ "NOT" | "-" ] ( "(" expression ")" | field operator value )
//   field      = word { "." ( word | string ) }    word = [A-Za-z_][A-Za-z0-9_/-]*
//   operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
//   value      = string in single or double quotes (\ escapes the next byte)
//              | bare text up to white space or a parenthesis
struct FilterNode {
  enum class Kind : std::uint8_t { kAll, kAnd, kOr, kNot, kCompare };
  enum class Operator : std::uint8_t {
    kEqual,
    kNotEqual,
    kLess,
    kLessEqual,
    kGreater,
    kGreaterEqual,
    kHas
  };
  Kind kind = Kind::kAll;
  std::vector<FilterNode> children;  // kAnd, kOr: two or more; kNot: one
  std::string field;                 // kCompare: the first word
  std::string member;                // kCompare: what follows its dot, if anything
  Operator op = Operator::kEqual;
  std::string value;
  std::size_t column = 0;  // from 1, of the field
};

inline constexpr std::size_t kMaxFilterBytes = 2048;
inline constexpr int kMaxFilterDepth = 32;
inline constexpr int kMaxFilterTerms = 100;

// Throws core::Error(kConfig) naming the column and what was expected; also beyond the limits
// above.
FilterNode parse_filter(std::string_view text);

}  // namespace lockstep::coordinator
