#include "core/system_error.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cerrno>
#include <system_error>

namespace lockstep::core {

std::string describe_errno(int error) {
  const std::string text = std::generic_category().message(error);
  rlimit limit{};
  if (error != EFBIG || getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
    return text;
  }
  return fmt::format("{}: the limit is {} bytes a file; raise it (ulimit -f)", text,
                     limit.rlim_cur);
}

}  // namespace lockstep::core
