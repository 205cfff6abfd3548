#pragma once

#include <string>

namespace lockstep::core {

// What a value of errno means; of a file that grew too large, the limit that it ran into.
std::string describe_errno(int error);

}  // namespace lockstep::core
