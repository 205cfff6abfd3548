// A job whose rank 1 kills itself, or stops, in the middle of its collectives; started by
// lost_rank_test under mpirun. Each survivor prints what it was told and how long that took.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/mpi_environment.h"

int main(int argc, char** argv) {
  using namespace lockstep;
  using std::chrono::steady_clock;
  signal(SIGTERM, SIG_IGN);  // mpirun ends the others when one dies: they shall tell first
  const std::string fate = argc > 1 ? argv[1] : "";
  comm::MpiEnvironment environment;
  const auto comm = comm::make_mpi_communicator({.timeout = std::chrono::milliseconds(500)});
  try {
    for (int step = 0; step < 10; ++step)
      comm->barrier("step");
    if (comm->rank() == 1 && fate == "kill") raise(SIGKILL);
    if (comm->rank() == 1 && fate == "stop") raise(SIGSTOP);
  } catch (const core::Error&) {
    // A peer that was faster has noticed; the loop below tells.
  }
  const auto begin = steady_clock::now();
  try {
    comm->all_gather_small(comm->rank(), "report");
  } catch (const core::Error& error) {
    if (comm->rank() == 1) _exit(error.exit_code());  // woken by mpirun when it ends the job
    const double seconds = std::chrono::duration<double>(steady_clock::now() - begin).count();
    std::printf("rank=%d exit=%d seconds=%.3f message=%s\n", comm->rank(), error.exit_code(),
                seconds, error.what());
    std::fflush(stdout);
    environment.mark_failed();
    usleep(200'000);  // mpirun ends the others once this rank exits: let them tell
    _exit(error.exit_code());
  }
  return 0;
}
