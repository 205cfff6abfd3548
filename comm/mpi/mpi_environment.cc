#include "comm/mpi/mpi_environment.h"

#include <fcntl.h>
#include <ifaddrs.h>
#include <mpi.h>
#include <net/if.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "comm/mpi/mpi_check.h"
#include "core/check.h"

namespace lockstep::comm {

namespace {

bool is_set(const char* name) {
  return std::getenv(name) != nullptr;
}

// 1 when it is not set.
int number_of(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 1 : std::atoi(text);
}

// Tasks of the Slurm step this process belongs to; 1 outside Slurm.
int slurm_step_tasks() {
  return is_set("SLURM_STEP_ID") ? number_of("SLURM_STEP_NUM_TASKS") : 1;
}

// The name of the loopback interface if it works ("lo"), else empty.
std::string loopback_interface() {
  ifaddrs* interfaces = nullptr;
  if (getifaddrs(&interfaces) != 0) return "";
  std::string name;
  constexpr unsigned int kWanted = IFF_UP | IFF_LOOPBACK;
  for (const ifaddrs* each = interfaces; each != nullptr && name.empty(); each = each->ifa_next) {
    const bool has_address = each->ifa_addr != nullptr && each->ifa_addr->sa_family == AF_INET;
    if (has_address && (each->ifa_flags & kWanted) == kWanted) name = each->ifa_name;
  }
  freeifaddrs(interfaces);
  return name;
}

// Ranks of one host share memory by this program's own means and need MPI only to set that up. So
// MPI's own shared memory (vader) is left out: its files in /dev/shm stay there for ever when
// mpirun and the ranks are killed together. What people chose themselves, in the environment or by
// mpirun's --mca, stands.
void leave_out_shared_memory_of_mpi() {
  // Nor is it tried out whether POSIX shared memory works: that makes /dev/shm/open_mpi.0000.
  setenv("OMPI_MCA_shmem", "mmap", 0);
  const char* here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const char* all = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (here == nullptr || all == nullptr || is_set("OMPI_MCA_btl")) return;
  if (std::atoi(here) == std::atoi(all)) {
    // Open MPI talks TCP over loopback only when told to, and a host may have nothing else.
    if (is_set("OMPI_MCA_btl_tcp_if_include") || is_set("OMPI_MCA_btl_tcp_if_exclude")) return;
    const std::string loopback = loopback_interface();
    if (loopback.empty()) return;
    setenv("OMPI_MCA_btl_tcp_if_include", loopback.c_str(), 0);
  }
  setenv("OMPI_MCA_btl", "^vader", 0);
}

// Ends this process if MPI_Init does not come to an end, as when another rank died in it: nothing
// could be agreed or recorded yet.
class StartLimit {
 public:
  StartLimit() : thread_([this] { watch(); }) {}
  ~StartLimit() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  StartLimit(const StartLimit&) = delete;
  StartLimit& operator=(const StartLimit&) = delete;

 private:
  static constexpr std::chrono::seconds kLongest{300};

  void watch() {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kLongest, [this] { return done_; })) return;
    std::fprintf(stderr,
                 "lockstep: communication error: MPI_Init has not ended for %lld s: another rank "
                 "may have died in it; start again\n",
                 static_cast<long long>(kLongest.count()));
    _exit(static_cast<int>(core::ErrorKind::kCommunication));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

// A process beside this one that says so if this one ends in MPI_Init: Open MPI then ends it by _exit,
// behind which nothing of this program runs.
class StartWitness {
 public:
  StartWitness() {
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    // Before the fork, behind which only system calls are safe.
    const std::string text = fmt::format(
        "lockstep: communication error: process {} on this host ended while MPI was starting; "
        "the reason is above, from Open MPI\n",
        getpid());
    const pid_t child = fork();
    if (child == 0) witness(ends, text);
    close(ends[0]);
    started_ = ends[1];
    child_ = child;
  }
  ~StartWitness() {
    if (started_ < 0) return;
    [[maybe_unused]] const ssize_t written = write(started_, "s", 1);
    close(started_);
    if (child_ > 0) waitpid(child_, nullptr, 0);
  }
  StartWitness(const StartWitness&) = delete;
  StartWitness& operator=(const StartWitness&) = delete;

 private:
  [[noreturn]] static void witness(const int (&ends)[2], const std::string& text) {
    close(ends[1]);
    char started = 0;
    if (read(ends[0], &started, 1) == 0) {
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    }
    _exit(0);
  }

  int started_ = -1;  // to the witness
  pid_t child_ = -1;
};

}  // namespace

bool started_by_mpi_launcher() {
  return is_set("OMPI_COMM_WORLD_SIZE") || is_set("PMIX_RANK") || is_set("PMI_RANK");
}

void refuse_separate_tasks() {
  const int tasks = std::max(slurm_step_tasks(), number_of("SLURM_NTASKS"));
  if (tasks <= 1) return;
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format(
          "this is a Slurm job of {0} tasks, and nothing connects them (no PMIx): each would "
          "train a run of its own; write `srun --mpi=pmix lockstep train CONFIG`, or, once "
          "in the batch script, `mpirun --bind-to none lockstep train CONFIG`; --ranks {0} "
          "starts all ranks on this host, --ranks 1 trains with this one",
          tasks));
}

MpiEnvironment::MpiEnvironment() {
  int initialized = 0;
  check_mpi(MPI_Initialized(&initialized), "MPI_Initialized");
  if (initialized == 0) {
    // A rank must not outlive its launcher. One that is gone already makes MPI_Init fail.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    leave_out_shared_memory_of_mpi();
    const StartWitness witness;
    const StartLimit limit;
    int provided = MPI_THREAD_SINGLE;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided),
              "MPI_Init_thread");
    owned_ = true;
    if (provided < MPI_THREAD_SERIALIZED) {
      throw core::Error(
          core::ErrorKind::kCommunication,
          fmt::format("MPI offers thread level {}, expected MPI_THREAD_SERIALIZED ({})", provided,
                      static_cast<int>(MPI_THREAD_SERIALIZED)));
    }
  }
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world_size_), "MPI_Comm_size");
  const int tasks = std::max(slurm_step_tasks(), number_of("PMI_SIZE"));
  if (world_size_ == 1 && tasks > 1 && !is_set("OMPI_COMM_WORLD_SIZE")) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("the launcher started {} tasks, but MPI sees a world of one; start them with "
                    "`srun --mpi=pmix`, or with the mpirun of Open MPI",
                    tasks));
  }
}

MpiEnvironment::~MpiEnvironment() {
  const bool unwinding = std::uncaught_exceptions() > 0;
  if (owned_ && !failed_ && !unwinding) MPI_Finalize();
}

}  // namespace lockstep::comm
