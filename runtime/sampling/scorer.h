#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockstep::runtime {

// Natural-log likelihoods of tokens by a model, given all tokens before them.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual std::int64_t context() const = 0;
  // Of tokens [first, tokens.size()), each given those before it; 1 <= first < tokens.size() <=
  // context() + 1.
  virtual std::vector<double> score(std::span<const std::int32_t> tokens, std::size_t first) = 0;
};

}  // namespace lockstep::runtime
