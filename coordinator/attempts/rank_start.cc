#include "coordinator/attempts/rank_start.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/control_channel.h"
#include "coordinator/attempts/process.h"
#include "core/error.h"
#include "core/signals.h"

namespace lockstep::coordinator {

namespace {

constexpr int kPatienceMs = 60'000;  // a machine may be very busy when many ranks start

[[noreturn]] void fail(const std::string& why) {
  throw core::Error(core::ErrorKind::kInternal, "cannot start this rank: " + why);
}

int own_rank() {
  const char* text = std::getenv("OMPI_COMM_WORLD_RANK");
  int rank = -1;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), rank);
  if (rank < 0) fail("OMPI_COMM_WORLD_RANK is not set; rank-start is for mpirun only");
  return rank;
}

// Standard output and error become the pipes that the supervisor holds for this rank.
void take_streams(const std::string& directory, int rank) {
  const nlohmann::json request = {
      {"version", kAttemptFilesVersion}, {"verb", "rank"}, {"rank", rank}};
  const auto reply = call_control(directory, request.dump(), kPatienceMs);
  if (!reply) fail("the supervisor does not answer");
  if (reply->descriptors.size() != 2) fail(reply->text);
  if (dup2(reply->descriptors[0].get(), STDOUT_FILENO) < 0 ||
      dup2(reply->descriptors[1].get(), STDERR_FILENO) < 0) {
    fail(std::strerror(errno));
  }
}

void choose_devices(const std::string& devices, int rank) {
  if (devices.empty()) return;
  std::istringstream all(devices);
  std::string own;
  for (int i = 0; i <= rank; ++i)
    std::getline(all, own, '/');
  setenv("CUDA_VISIBLE_DEVICES", own.c_str(), 1);
}

}  // namespace

void start_rank(const RankStart& start) {
  const int rank = own_rank();
  // Whatever the program does of itself: with mpirun gone nobody would look after it.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (start.boot_id == boot_id()) take_streams(start.directory, rank);
  choose_devices(start.devices, rank);
  // A request to stop may come before the program listens for it; it is repeated.
  signal(SIGUSR1, SIG_IGN);
  core::release_signals();
  std::vector<char*> arguments;
  for (const std::string& word : start.program)
    arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execv(arguments[0], arguments.data());
  const std::string why =
      fmt::format("cannot execute {}: {}", start.program.front(), std::strerror(errno));
  // As a shell would say it; the supervisor reads it as a failed launch.
  constexpr int kCannotExecute = 127;
  const std::string text = "lockstep: " + why + "\n";
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(kCannotExecute);
  _exit(kCannotExecute);
}

}  // namespace lockstep::coordinator
