#include "runtime/ranks/agree.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <vector>

namespace lockstep::runtime {

namespace {

// "0", or the digit of the kind and the message.
std::string outcome_of(const std::function<void()>& action) {
  try {
    action();
    return "0";
  } catch (const core::Error& error) {
    return fmt::format("{}{}", error.exit_code(), error.what());
  } catch (const std::bad_alloc&) {
    return fmt::format("{}out of host memory", static_cast<int>(core::ErrorKind::kOutOfMemory));
  } catch (const std::exception& error) {
    return fmt::format("{}{}", static_cast<int>(core::ErrorKind::kInternal), error.what());
  }
}

}  // namespace

void agree(comm::Communicator& communicator, const std::string& label,
           const std::function<void()>& action) {
  const std::vector<std::string> outcomes =
      communicator.all_gather_bytes(outcome_of(action), label);
  for (std::size_t r = 0; r < outcomes.size(); ++r) {
    if (outcomes[r] == "0") continue;
    const auto kind = static_cast<core::ErrorKind>(outcomes[r].front() - '0');
    const bool everywhere = std::all_of(outcomes.begin(), outcomes.end(),
                                        [&](const auto& o) { return o == outcomes[r]; });
    const std::string message = outcomes[r].substr(1);
    throw AgreedError(kind, everywhere ? message : fmt::format("rank {}: {}", r, message));
  }
}

}  // namespace lockstep::runtime
