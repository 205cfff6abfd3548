#pragma once

namespace lockstep::comm {

// Whether this process was started as one rank of several by mpirun, another PMIx launcher or srun.
bool started_by_mpi_launcher();

// Throws Error(kConfig), saying what to write, in a task of a Slurm job of several tasks that nothing
// connects: each would train a run of its own. For a process that was not started_by_mpi_launcher().
void refuse_separate_tasks();

// MPI for the time of one process; made by main in a process that started_by_mpi_launcher().
// Initialises MPI (thread level SERIALIZED: one thread at a time talks to MPI, which may be that of a
// communicator that watches over a device) with errors returned as codes.
// Asks the kernel to kill this process when its launcher ends, and Open MPI to leave out its shared
// memory between the ranks of a host, unless people chose their own transports (OMPI_MCA_btl).
// Ends the process with 5 if initialising takes more than 300 s.
// Throws Error(kCommunication) if initialising fails, and Error(kConfig) if srun started several tasks that
// MPI sees as worlds of one. If MPI is initialised already it is left to whoever did that.
class MpiEnvironment {
 public:
  MpiEnvironment();
  // Finalises MPI, unless mark_failed was called or an exception is on its way.
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  int rank() const { return rank_; }
  int world_size() const { return world_size_; }

  // The process ends by an error: finalising would wait for peers that may be gone. It must then
  // exit with a status other than 0, upon which mpirun ends the other ranks.
  void mark_failed() { failed_ = true; }

 private:
  int rank_ = 0;
  int world_size_ = 1;
  bool owned_ = false;
  bool failed_ = false;
};

}  // namespace lockstep::comm
