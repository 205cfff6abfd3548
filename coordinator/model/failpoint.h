#pragma once

#include <string>

// Places at which tests make the coordinator die, fail or wait. Nothing happens unless armed, and
// only `lockstep coordinator --failpoints` arms them.
namespace lockstep::coordinator {

// Reads "site=crash", "site=error", "site=delay:250", several with commas; "site@3=crash" acts from
// the third time on that the site is passed. Throws core::Error(kConfig) for anything else.
void arm_failpoints(const std::string& specification);
void disarm_failpoints();

// crash: ends the process as SIGKILL would; error: throws core::Error(kInternal); delay: sleeps.
void failpoint(const char* site);

}  // namespace lockstep::coordinator
