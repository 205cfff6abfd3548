#include "comm/mpi/mpi_environment.h"

#include <mpi.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdlib>
#include <exception>
#include <string>

#include "comm/mpi/mpi_check.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

bool is_set(const char* name) {
  return std::getenv(name) != nullptr;
}

// Tasks of the Slurm step this process belongs to; 1 outside Slurm.
int slurm_step_tasks() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return is_set("SLURM_STEP_ID") && tasks != nullptr ? std::atoi(tasks) : 1;
}

}  // namespace

bool started_by_mpi_launcher() {
  return is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || slurm_step_tasks() > 1;
}

MpiEnvironment::MpiEnvironment() {
  int initialized = 0;
  check_mpi(MPI_Initialized(&initialized), "MPI_Initialized");
  if (initialized == 0) {
    // A rank must not outlive its launcher. One that is gone already makes MPI_Init fail.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int provided = MPI_THREAD_SINGLE;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
    owned_ = true;
    if (provided < MPI_THREAD_FUNNELED) {
      throw core::Error(core::ErrorKind::kCommunication,
                        fmt::format("MPI offers thread level {}, expected MPI_THREAD_FUNNELED ({})",
                                    provided, MPI_THREAD_FUNNELED));
    }
  }
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world_size_), "MPI_Comm_size");
  if (world_size_ == 1 && slurm_step_tasks() > 1 && !is_set("OMPI_COMM_WORLD_SIZE")) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("srun started {} tasks, but MPI sees a world of one; start them with "
                    "`srun --mpi=pmix` (or mpirun)",
                    slurm_step_tasks()));
  }
}

MpiEnvironment::~MpiEnvironment() {
  const bool unwinding = std::uncaught_exceptions() > 0;
  if (owned_ && !failed_ && !unwinding) MPI_Finalize();
}

}  // namespace lockstep::comm
