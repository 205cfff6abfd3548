#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/data/tokenizer/splitter.h"

namespace lockstep::runtime {

// The distinct pieces of texts, in bytewise order, and how often each occurs. The same whatever the
// number of threads. The pieces are views into the texts.
using WordCounts = std::vector<std::pair<std::string_view, std::int64_t>>;
WordCounts count_words(std::span<const std::string_view> texts, SplitPattern pattern, int threads);

}  // namespace lockstep::runtime
