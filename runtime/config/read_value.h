#pragma once

#include <optional>

#include "runtime/config/document.h"
#include "runtime/config/problems.h"
#include "runtime/config/schema.h"

namespace lockstep::runtime {

// The value of one entry, checked against type, choices and range of its key. nullopt: it is not
// legal, and problems says why. Stricter than YAML, so that a text means one thing: no leading
// zeros (007), no yes/no/on/off, integers without point or exponent, quoted numbers are text.
std::optional<Value> read_value(const Entry& entry, Problems& problems);

}  // namespace lockstep::runtime
