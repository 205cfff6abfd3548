#pragma once

#include <functional>
#include <memory>
#include <string>

#include "coordinator/server/unary_call.h"

namespace lockstep::coordinator {

// Answers a unary call when a run has come so far, without holding a thread until then.
class WaitCall final : public LongCall {
 public:
  // Fills in the response if it is time to answer; `last` means that the deadline is near. Called
  // with the newest state of the run, never again once it has said true. May throw EngineError.
  using Answer = std::function<bool(const RunPtr& run, bool last)>;

  // Asks at once, and then until the call is answered. Throws EngineError.
  static void begin(ServerState& state, const std::shared_ptr<UnaryCall>& call, std::string run,
                    Answer answer);

  WaitCall(ServerState& state, std::shared_ptr<UnaryCall> call, std::string run, Answer answer);
  void look(const CallMoment& moment) override;
  void end(const grpc::Status& status) override;

 private:
  bool try_answer(std::int64_t now_ns);  // may throw

  ServerState& state_;
  const std::shared_ptr<UnaryCall> call_;
  const std::string run_;
  const Answer answer_;
  const std::int64_t answer_by_ns_;
  bool done_ = false;
};

}  // namespace lockstep::coordinator
