#include "coordinator/server/wait_call.h"

#include <algorithm>
#include <utility>

#include "coordinator/server/rpc_error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kMaxWaitNs = 60 * kSecond;

// Early enough for the answer to arrive before the caller gives up.
std::int64_t answer_by(const UnaryCall& call) {
  const std::int64_t now = steady_ns();
  const std::int64_t left = call.deadline_ns() - now;
  const std::int64_t margin = std::min<std::int64_t>(left / 4, kSecond / 2);
  return now + std::clamp<std::int64_t>(left - margin, 0, kMaxWaitNs);
}

}  // namespace

WaitCall::WaitCall(ServerState& state, std::shared_ptr<UnaryCall> call, std::string run,
                   Answer answer)
    : LongCall(call->principal()),
      state_(state),
      call_(std::move(call)),
      run_(std::move(run)),
      answer_(std::move(answer)),
      answer_by_ns_(answer_by(*call_)) {}

void WaitCall::begin(ServerState& state, const std::shared_ptr<UnaryCall>& call, std::string run,
                     Answer answer) {
  const auto wait = std::make_shared<WaitCall>(state, call, std::move(run), std::move(answer));
  if (wait->try_answer(steady_ns())) return;
  call->answer_later();
  state.long_calls.add(wait, LongCalls::Kind::kWait);
}

bool WaitCall::try_answer(std::int64_t now_ns) {
  return answer_(state_.engine.find(run_), now_ns >= answer_by_ns_);
}

void WaitCall::look(const CallMoment& moment) {
  if (done_) return;
  grpc::Status status;
  try {
    if (call_->cancelled()) {
      status = grpc::Status(grpc::StatusCode::CANCELLED, "the caller has gone");
    } else if (!try_answer(moment.now_ns)) {
      return;
    }
  } catch (...) {
    status = to_status(std::current_exception());
  }
  end(status);
}

void WaitCall::end(const grpc::Status& status) {
  if (done_) return;
  done_ = true;
  state_.long_calls.remove(this);
  call_->finish(status);
}

}  // namespace lockstep::coordinator
