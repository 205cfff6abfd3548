#include "core/check.h"

namespace lockstep::core {

void fail_check(const char* file, int line, const char* condition, const std::string& message) {
  throw Error(ErrorKind::kInternal,
              fmt::format("{}:{}: check failed: {}: {}", file, line, condition, message));
}

}  // namespace lockstep::core
