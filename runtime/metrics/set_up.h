#pragma once

#include <cstdint>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// XXH3-64 of all that the bits of a run may depend on, as run.reproducible promises them: the
// build, the configuration without what only observes, saves or ends the run (and without data
// paths: the manifest holds the data files' own hashes), and, unless it is `ranks`, the number of
// ranks and threads, and how ranks share the work. Attempts with equal set-ups compute the same
// bits, unless run.reproducible is `none`.
std::uint64_t hash_of_set_up(Config config, int ranks, int threads);

}  // namespace lockstep::runtime
