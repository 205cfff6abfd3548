#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "comm/nccl/nccl_api.h"

// Memory as the stand-in for NCCL knows it: what it gave out, and what is registered with which
// communicator. What NCCL leaves undefined is written down in NcclStandInState::misuses.
namespace lockstep::comm::testing {

enum class Kept { kNot, kLocal, kWindow };

// Where an address lies in memory registered with a communicator.
struct Place {
  Kept kept = Kept::kNot;
  std::size_t offset = 0;  // from the beginning of what was registered

  bool operator==(const Place&) const = default;
};

// Of one rank's communicator. One thread at a time.
class Registrations {
 public:
  Registrations() = default;
  ~Registrations();  // deregisters everything, as the end of a communicator does
  Registrations(const Registrations&) = delete;
  Registrations& operator=(const Registrations&) = delete;

  void add(const void* memory, std::size_t bytes, Kept kept);
  bool remove(const void* memory, Kept kept);  // false: there is no such registration
  bool empty() const { return entries_.empty(); }
  Place find(const void* address) const;

 private:
  struct Entry {
    std::size_t bytes;
    Kept kept;
  };
  std::map<const std::byte*, Entry> entries_;
};

void note_misuse(const std::string& what);

// As ncclMemAlloc and ncclMemFree, of async_device().
nccl::Result give_memory(void** memory, std::size_t bytes);
nccl::Result take_memory(void* memory);

// As the functions of the library.
nccl::Result register_local(nccl::Comm* comm, void* memory, std::size_t bytes, void** handle);
nccl::Result deregister_local(nccl::Comm* comm, void* handle);
nccl::Result register_window(nccl::Comm* comm, void* memory, std::size_t bytes,
                             nccl::Window** window, int flags);
nccl::Result deregister_window(nccl::Comm* comm, nccl::Window* window);
// What goes on in the background of a window's registration.
void look_at_window(nccl::Comm* comm);

}  // namespace lockstep::comm::testing
