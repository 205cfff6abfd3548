#include "runtime/trainer/stop_points.h"

#include <algorithm>
#include <vector>

namespace lockstep::runtime {

void StopPoints::begin(std::int64_t tokens) {
  tokens_ = tokens;
  work_ = 0;
}

core::ConstTensorView StopPoints::parameter(models::ParameterId id) {
  if (asked_ && tokens_ > 0) {
    // A product of forward; those of backward are two, and ask for the parameter once.
    work_ += 2 * tokens_ * table_[id].elements();
    if (work_ >= kWorkBetween) {
      work_ = 0;
      if (agreed()) throw StopAgreed();
    }
  }
  return parameters_.parameter(id);
}

bool StopPoints::agreed() {
  if (!asked_) return false;
  const std::vector<int> answers = communicator_.all_gather_small(asked_() ? 1 : 0, "stop");
  return std::any_of(answers.begin(), answers.end(), [](int answer) { return answer != 0; });
}

}  // namespace lockstep::runtime
