#pragma once

#include <string_view>

#include "runtime/config/config.h"
#include "runtime/config/document.h"
#include "runtime/config/problems.h"

namespace lockstep::runtime {

// Whether a key does anything under the other keys: schedule.step_size only with schedule step, and
// so on. A key without effect may only have its default value, and is not stored.
bool has_effect(std::string_view path, const Config& config);

// Everything that concerns more than one key, on a resolved configuration.
void check_rules(const Config& config, const Document& document, Problems& problems);

}  // namespace lockstep::runtime
