// Stands in for runtime/built_instruction_sets.cc: a build for a processor that nobody has.
#include "runtime/built_instruction_sets.h"

namespace lockstep::runtime {

constinit const char* const kBuiltInstructionSets[] = {"sse3", "avx9000", "tpu", nullptr};

}  // namespace lockstep::runtime
