#pragma once

namespace lockstep::models {

// Which activations of a block are computed again in backward instead of kept.
enum class Recompute { kNone, kAttention, kBlock };

// What backward is for, as far as memory follows from it.
struct BackwardPlan {
  Recompute recompute = Recompute::kNone;
  int first_group = 0;        // the lowest with a tensor that is trained; below it is no backward
  bool tied_gradient = true;  // the table of tied embeddings is trained
};

class ParameterTable;
BackwardPlan backward_plan(const ParameterTable& table, Recompute recompute);

}  // namespace lockstep::models
