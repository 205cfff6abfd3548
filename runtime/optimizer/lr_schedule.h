#pragma once

#include <cstdint>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// The learning rate of applied step t (1-based): a closed form without hidden state, so that a
// resumed run and a skipped step need no special care. Formulas in docs/numerics.md, "Learning
// rate".
double learning_rate_at(const ScheduleConfig& schedule, double peak, std::int64_t t);

}  // namespace lockstep::runtime
