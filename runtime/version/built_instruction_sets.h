#pragma once

namespace lockstep::runtime {

// Instruction sets beyond plain x86-64 that the compiler was allowed to use, by the names that
// GCC's __builtin_cpu_supports takes ("avx2", "avx512f"), ended by nullptr. Constant data, so that
// it can be read before any code of this build has run. Empty on other architectures.
extern const char* const kBuiltInstructionSets[];

}  // namespace lockstep::runtime
