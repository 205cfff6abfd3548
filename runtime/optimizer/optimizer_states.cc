#include "runtime/optimizer/optimizer_states.h"

namespace lockstep::runtime {

std::vector<std::string_view> state_names(const OptimizerConfig& optimizer) {
  switch (optimizer.name) {
    case ops::OptimizerKind::kAdamW:
    case ops::OptimizerKind::kAdam:
      return {"Adam's first moment", "Adam's second moment"};
    case ops::OptimizerKind::kSgd:
      if (optimizer.momentum > 0.0) return {"SGD's momentum"};
      return {};
    case ops::OptimizerKind::kRmsProp:
      if (optimizer.momentum > 0.0) return {"RMSProp's mean square", "RMSProp's momentum"};
      return {"RMSProp's mean square"};
    case ops::OptimizerKind::kLion:
      return {"Lion's momentum"};
    case ops::OptimizerKind::kMuon:
      return {"Muon's momentum, Adam's first moment of the rest",
              "Adam's second moment of what is not Muon's"};
  }
  return {};
}

}  // namespace lockstep::runtime
