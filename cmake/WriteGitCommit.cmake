# Run at build time with SOURCE and OUTPUT: writes a header with the commit of the source tree, and
# only if that changed, so that nothing is compiled again without need.
set(commit unknown)
find_package(Git QUIET)
if(GIT_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} rev-parse --show-toplevel HEAD
    OUTPUT_VARIABLE answer ERROR_QUIET RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed)
    string(REPLACE "\n" ";" answer "${answer}")
    list(GET answer 0 top)
    file(REAL_PATH "${SOURCE}" source)
    # A tree without .git inside somebody else's repository has no commit of its own.
    if(top STREQUAL source)
      list(GET answer 1 commit)
      execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE} status --porcelain
        --untracked-files=no OUTPUT_VARIABLE changes ERROR_QUIET)
      if(changes)
        string(APPEND commit "-dirty")
      endif()
    endif()
  endif()
endif()
set(text "#pragma once

#include <string_view>

namespace lockstep::runtime {
inline constexpr std::string_view kGitCommit = \"${commit}\";
}  // namespace lockstep::runtime
")
set(old "")
if(EXISTS "${OUTPUT}")
  file(READ "${OUTPUT}" old)
endif()
if(NOT text STREQUAL old)
  file(WRITE "${OUTPUT}" "${text}")
endif()
