#include "comm/comm_times.h"

namespace lockstep::comm {

const char* name_of(CommKind kind) {
  switch (kind) {
    case CommKind::kReduce:
      return "reduce";
    case CommKind::kGather:
      return "gather";
  }
  return "?";
}

CommSeconds CommTimes::all() const {
  CommSeconds sum;
  for (const CommSeconds& seconds : by_kind) {
    sum.hidden += seconds.hidden;
    sum.exposed += seconds.exposed;
  }
  return sum;
}

}  // namespace lockstep::comm
