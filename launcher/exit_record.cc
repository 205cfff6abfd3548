#include "launcher/exit_record.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <exception>

#include "core/json_text.h"
#include "runtime/files/write_file.h"

namespace lockstep::launcher {

bool write_exit_record(const std::string& output, const ExitRecord& record) noexcept {
  try {
    char host[256] = {};
    gethostname(host, sizeof(host) - 1);
    const auto now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch());
    runtime::replace_file(
        fmt::format("{}/exit/rank-{:04}.json", output, record.rank),
        fmt::format("{{\"version\":1,\"rank\":{},\"world_size\":{},\"attempt\":{},\"host\":{},"
                    "\"pid\":{},\"exit_code\":{},\"reason\":{},\"message\":{},\"step\":{},"
                    "\"unix_time\":{:.3f}}}\n",
                    record.rank, record.world_size, record.attempt, core::json_string(host),
                    getpid(), record.exit_code, core::json_string(record.reason),
                    core::json_string(record.message), record.step, now.count()));
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace lockstep::launcher
