// Stands in for runtime/version/built_instruction_sets.cc: a build for a processor that nobody has.
#include "runtime/version/built_instruction_sets.h"

namespace lockstep::runtime {

constinit const char* const kBuiltInstructionSets[] = {"sse3", "avx9000", "tpu", nullptr};

}  // namespace lockstep::runtime
