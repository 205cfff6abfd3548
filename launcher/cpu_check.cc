// Runs before main, and before every other constructor of this program: a binary built for a newer
// processor says which instruction sets are missing instead of dying of SIGILL. Compiled for plain
// x86-64 (launcher/CMakeLists.txt) and written without the C++ library, whose templates might be
// shared with files compiled for the newer processor.
#include <string.h>
#include <unistd.h>

#include "runtime/version/built_instruction_sets.h"

namespace {

constexpr int kExitUsage = 2;

#if defined(__x86_64__)

struct InstructionSet {
  const char* name;
  bool present;
};

bool is_present(const char* name) {
#define LOCKSTEP_ASK(set)                 \
  InstructionSet {                        \
    set, __builtin_cpu_supports(set) != 0 \
  }
  const InstructionSet sets[] = {
      LOCKSTEP_ASK("sse3"),       LOCKSTEP_ASK("ssse3"),        LOCKSTEP_ASK("sse4.1"),
      LOCKSTEP_ASK("sse4.2"),     LOCKSTEP_ASK("popcnt"),       LOCKSTEP_ASK("avx"),
      LOCKSTEP_ASK("avx2"),       LOCKSTEP_ASK("fma"),          LOCKSTEP_ASK("f16c"),
      LOCKSTEP_ASK("bmi"),        LOCKSTEP_ASK("bmi2"),         LOCKSTEP_ASK("lzcnt"),
      LOCKSTEP_ASK("movbe"),      LOCKSTEP_ASK("avx512f"),      LOCKSTEP_ASK("avx512cd"),
      LOCKSTEP_ASK("avx512bw"),   LOCKSTEP_ASK("avx512dq"),     LOCKSTEP_ASK("avx512vl"),
      LOCKSTEP_ASK("avx512ifma"), LOCKSTEP_ASK("avx512vbmi"),   LOCKSTEP_ASK("avx512vbmi2"),
      LOCKSTEP_ASK("avx512vnni"), LOCKSTEP_ASK("avx512bitalg"), LOCKSTEP_ASK("avx512vpopcntdq"),
      LOCKSTEP_ASK("avx512bf16"), LOCKSTEP_ASK("avx512fp16"),   LOCKSTEP_ASK("avxvnni"),
      LOCKSTEP_ASK("amx-tile"),   LOCKSTEP_ASK("amx-int8"),     LOCKSTEP_ASK("amx-bf16"),
  };
#undef LOCKSTEP_ASK
  for (const InstructionSet& set : sets) {
    if (strcmp(set.name, name) == 0) return set.present;
  }
  return false;
}

#else

bool is_present(const char*) {
  return true;
}

#endif

void say(const char* text) {
  // Nothing can be done about an error of stderr here; the exit code still tells.
  if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

// 101 is the earliest priority that programs may use.
[[gnu::constructor(101)]] void check_cpu() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  bool missing = false;
  for (const char* const* name = lockstep::runtime::kBuiltInstructionSets; *name != nullptr;
       ++name) {
    if (is_present(*name)) continue;
    if (!missing) {
      say("lockstep: this binary was built for a processor with instruction sets that this one "
          "lacks:");
    }
    missing = true;
    say(" ");
    say(*name);
  }
  if (!missing) return;
  say("\nbuild it on this machine, or with -DLOCKSTEP_PORTABLE=ON\n");
  _exit(kExitUsage);
}

}  // namespace
