#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace lockstep::comm {

// A group of one rank. Collectives copy (or reduce a single input) by the same code as the other
// CPU backends; nothing ever waits.
std::unique_ptr<Communicator> make_self_communicator(std::chrono::milliseconds timeout);

}  // namespace lockstep::comm
