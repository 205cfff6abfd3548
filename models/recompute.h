#pragma once

namespace lockstep::models {

// Which activations of a block are computed again in backward instead of kept.
enum class Recompute { kNone, kAttention, kBlock };

}  // namespace lockstep::models
