#pragma once

#include <string>

namespace lockstep::core::cuda {

// Throws Error(kInternal) naming `kernel` when memory around an allocation of the stand-in has been
// overwritten.
void check_guards(const char* kernel);

// Adds a line to StandInSettings::record, where there is one.
void record_call(const std::string& line);

}  // namespace lockstep::core::cuda
