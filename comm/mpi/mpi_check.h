#pragma once

// Only for the sources of this folder: everything else sees MPI through Communicator.

#include <mpi.h>

namespace lockstep::comm {

// Throws Error(kCommunication) with MPI's own words unless `code` is MPI_SUCCESS. `call` is the
// function's name.
void check_mpi(int code, const char* call);

// A communicator that is freed with its owner, unless MPI has been finalised before.
class MpiComm {
 public:
  MpiComm() = default;
  explicit MpiComm(MPI_Comm comm) : comm_(comm) {}
  ~MpiComm() { release(); }
  MpiComm(MpiComm&& other) noexcept : comm_(other.comm_) { other.comm_ = MPI_COMM_NULL; }
  MpiComm& operator=(MpiComm&& other) noexcept {
    if (this != &other) {
      release();
      comm_ = other.comm_;
      other.comm_ = MPI_COMM_NULL;
    }
    return *this;
  }

  MPI_Comm get() const { return comm_; }
  int rank() const;
  int size() const;
  // Forgets it without freeing: freeing is collective, and some peers may be gone.
  void abandon() { comm_ = MPI_COMM_NULL; }

 private:
  void release() noexcept;

  MPI_Comm comm_ = MPI_COMM_NULL;
};

}  // namespace lockstep::comm
