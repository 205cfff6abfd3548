#pragma once

#include <array>
#include <string>

namespace lockstep::runtime::test {

// A small legal configuration, one section a line: run 1, model 2, data 3, batch 4, train 5,
// optimizer 6. `line` (1 to 6) is replaced by `text`; 7 appends it; 0 changes nothing.
inline std::string sample_config(int line = 0, const std::string& text = "") {
  std::array<std::string, 7> lines = {
      "run: {seed: 7}",
      "model: {layers: 2, heads: 2, width: 64, context: 32, vocab: 256}",
      "data: {train: train.bin}",
      "batch: {global: 8, micro: 2}",
      "train: {steps: 100}",
      "optimizer: {learning_rate: 1e-3}",
      "",
  };
  if (line > 0) lines[static_cast<std::size_t>(line) - 1] = text;
  std::string joined;
  for (const std::string& each : lines)
    joined += each + "\n";
  return joined;
}

}  // namespace lockstep::runtime::test
