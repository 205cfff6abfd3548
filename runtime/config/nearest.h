#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep::runtime {

// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate that `word` was most likely meant to be, or "" when none is close (more than a
// third of its letters wrong).
std::string nearest_word(std::string_view word, const std::vector<std::string>& candidates);

// "a, b, c"
std::string join_words(const std::vector<std::string>& words);

}  // namespace lockstep::runtime
