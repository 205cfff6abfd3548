#include "runtime/optimizer/update_changes.h"

#include <algorithm>

#include "core/check.h"

namespace lockstep::runtime {

namespace {

// Elements [begin, end) of a vector that may be absent.
template <typename View>
View part(const View& view, std::int64_t begin, std::int64_t end) {
  return view.empty() ? view : view.slice_cols(begin, end);
}

}  // namespace

UpdateChanges::UpdateChanges(ModelState& state, const GradientBuckets& gradients,
                             core::MemoryTracker& memory)
    : before_(memory, kRegion, bytes()) {
  for (int b = 0; b < state.layout().size(); ++b) {
    if (state.owned_runs(b).empty()) continue;
    float* const changes = gradients.free_between_steps(b).data<float>();
    const std::int64_t begin = state.owned_begin(b);
    for (const OwnedRun& run : state.owned_runs(b)) {
      places_.push_back({run.master.data<float>(), changes + (run.segment.bucket_begin - begin),
                         run.segment.count});
    }
  }
  std::sort(places_.begin(), places_.end(),
            [](const Place& a, const Place& b) { return a.master < b.master; });
}

float* UpdateChanges::change_of(const float* master) const {
  const auto behind =
      std::upper_bound(places_.begin(), places_.end(), master,
                       [](const float* at, const Place& place) { return at < place.master; });
  LOCKSTEP_CHECK(behind != places_.begin(), "an update of masters that this rank does not own");
  const Place& place = *(behind - 1);
  LOCKSTEP_CHECK_LT(master - place.master, place.count, "place of a master in its run");
  return place.change + (master - place.master);
}

void UpdateChanges::update(ops::OpContext& context, const ops::UpdateRule& rule,
                           const ops::UpdateRun& run, ops::UpdateFactor factor, float clamp) {
  auto* const before = static_cast<float*>(before_.data());
  float* const changes = change_of(run.master.data<float>());
  for (std::int64_t begin = 0; begin < run.gradient.elements(); begin += kChunk) {
    const std::int64_t end = std::min(run.gradient.elements(), begin + kChunk);
    const core::TensorView master = run.master.slice_cols(begin, end);
    const float* const after = master.data<float>();
    std::copy_n(after, end - begin, before);
    ops::optimizer_update(context, rule, run.decay, factor, clamp,
                          run.gradient.slice_cols(begin, end), master, part(run.state0, begin, end),
                          part(run.state1, begin, end), part(run.parameter, begin, end));
    for (std::int64_t i = 0; i < end - begin; ++i)
      changes[begin + i] = after[i] - before[i];
  }
}

}  // namespace lockstep::runtime
