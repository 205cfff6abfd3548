#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/log.h"
#include "runtime/config/config.h"

namespace lockstep::launcher {

// How large activations are after each of the first steps of a training, by layer.
struct Coordinates {
  std::int64_t width = 0;
  std::vector<std::string> layers;  // "embeddings", "block.0", ..., "logits"
  std::vector<std::vector<double>>
      by_step;  // [steps + 1][layers]: root mean squares, initial first
};

// Trains on random tokens, on the CPU and one rank, and measures them on one more batch. It leaves
// nothing behind.
Coordinates measure_coordinates(runtime::Config config, std::int64_t steps, core::Logger& log);

// Slope of log(last root mean square) over log(width), by layer: 0 where nothing grows with the
// width. Of at least two widths.
std::vector<double> growth(const std::vector<Coordinates>& widths);

}  // namespace lockstep::launcher
