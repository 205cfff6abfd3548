#include "comm/self/self_communicator.h"

#include "comm/local/local_node.h"

namespace lockstep::comm {

std::unique_ptr<Communicator> make_self_communicator(std::chrono::milliseconds timeout) {
  return make_local_communicator("self", std::make_shared<LocalMemory>(1), 0, timeout);
}

}  // namespace lockstep::comm
