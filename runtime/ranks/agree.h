#pragma once

#include <functional>
#include <string>

#include "comm/communicator.h"

namespace lockstep::runtime {

// An Error that every rank throws with the same words, at the same place: it needs to be told only
// once, and every rank can leave in order.
class AgreedError : public core::Error {
 public:
  using core::Error::Error;
};

// Runs `action` on every rank and lets all ranks know how it went: if it threw on any, all ranks
// throw the Error of the lowest such rank, prefixed by its number unless it failed alike
// everywhere. So no rank leaves alone between collectives. `action` itself must not communicate.
void agree(comm::Communicator& communicator, const std::string& label,
           const std::function<void()>& action);

}  // namespace lockstep::runtime
