#include "runtime/step/tensor_clipping.h"

#include <fmt/format.h>

#include "core/check.h"
#include "core/hash.h"
#include "core/json_text.h"

namespace lockstep::runtime {

std::vector<double> clip_tensors(const ClipConfig& rules, const std::vector<double>& norms,
                                 StepDecision& decision) {
  std::vector<double>& references = decision.next.clip_references;
  if (rules.mode == ClipMode::kAdaGc) references.resize(norms.size());
  std::vector<double> coefficients;
  for (std::size_t i = 0; i < norms.size(); ++i) {
    const double reference = references.empty() ? 0.0 : references[i];
    const TensorClip clip =
        clip_tensor(rules, decision.next.clip, decision.coefficient, reference, norms[i]);
    if (!references.empty()) references[i] = clip.reference;
    coefficients.push_back(clip.coefficient);
  }
  return coefficients;
}

std::string clip_state_text(const DecisionState& state) {
  using core::json_number;
  const ClipState& clip = state.clip;
  switch (clip.mode) {
    case ClipMode::kZClip:
      return fmt::format(R"({{"seen":{},"mean":{},"variance":{}}})", clip.seen,
                         json_number(clip.mean), json_number(clip.variance));
    case ClipMode::kAdaGc: {
      const std::vector<double>& references = state.clip_references;
      const std::uint64_t hash =
          core::hash64(references.data(), references.size() * sizeof(double));
      return fmt::format(R"({{"seen":{},"references":"{}"}})", clip.seen, core::to_hex(hash));
    }
    default:
      return {};
  }
}

}  // namespace lockstep::runtime
