#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include <google/protobuf/message.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/server/rpc_error.h"
#include "coordinator/server/server_state.h"
#include "coordinator/server/unary_call.h"

namespace lockstep::coordinator {

// What a stream is made of: something that can be asked for the next message.
template <typename Message>
class MessageSource {
 public:
  enum class Next { kMessage, kLastMessage, kNothingYet, kEnd };
  virtual ~MessageSource() = default;

  // Fills in `message` (which is clear) or says why not. One call at a time, on the stream lane;
  // may read files. What it throws ends the stream with that error.
  virtual Next next(Message& message) = 0;
  // Cheap: might next() have something, after it had nothing yet?
  virtual bool may_have_more(const CallMoment& moment) = 0;
};

// Sends what a source has. At any time there is at most one message in flight and none waiting: a
// slow reader costs the memory of one message, and a dead one too, until its write has taken
// kMaxWriteNs. It then ends; the client goes on by cursor or sequence.
//
// It is in one of four places, each with one owner of the next step:
//   pulling  a job on the stream lane asks the source
//   writing  gRPC has a message; OnWriteDone comes
//   parked   nothing to send; look() or OnCancel moves it on
//   done     Finish has been called; OnDone comes
template <typename Message>
class PullStream final : public grpc::ServerWriteReactor<Message>,
                         public LongCall,
                         public std::enable_shared_from_this<PullStream<Message>> {
 public:
  using Source = MessageSource<Message>;

  PullStream(ServerState& state, grpc::CallbackServerContext& context, const MethodRule& rule,
             Principal principal, std::string run, std::unique_ptr<Source> source)
      : LongCall(std::move(principal)),
        state_(state),
        context_(context),
        method_(rule.name),
        run_(std::move(run)),
        source_(std::move(source)),
        begin_ns_(steady_ns()) {}

  // Throws EngineError when the caller has too many streams.
  void start() {
    state_.long_calls.add(this->shared_from_this(), LongCalls::Kind::kStream);
    self_ = this->shared_from_this();
    post_pull();
  }

  void look(const CallMoment& moment) override {
    std::unique_lock lock(mutex_);
    if (place_ == Place::kWriting && moment.now_ns - write_ns_ > kMaxWriteNs) {
      context_.TryCancel();  // under the lock: before OnWriteDone the context is there
      return;
    }
    if (moment.now_ns - begin_ns_ > kMaxAgeNs && !end_) {
      end_ = to_status(EngineError(ErrorCode::kUnavailable, "STREAM_AGE",
                                   "the stream is old; open a new one behind what you have"));
    }
    if (place_ != Place::kParked) return;
    if (!end_ && !source_->may_have_more(moment)) return;
    place_ = Place::kPulling;
    lock.unlock();
    post_pull();
  }

  void end(const grpc::Status& status) override {
    std::unique_lock lock(mutex_);
    if (!end_) end_ = status;
    // Somebody who does not read could hold the stream for long.
    if (place_ == Place::kWriting) context_.TryCancel();
    if (place_ != Place::kParked) return;
    place_ = Place::kDone;
    const grpc::Status final_status = *end_;
    lock.unlock();
    finish(final_status);
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    place_ = ok ? Place::kPulling : Place::kDone;
    const bool last = last_;
    if (ok && last) place_ = Place::kDone;
    const grpc::Status status = end_.value_or(cancelled());
    lock.unlock();
    if (!ok) return finish(status);
    if (last) return finish(grpc::Status::OK);
    post_pull();
  }

  void OnCancel() override { end(cancelled()); }

  void OnDone() override {
    state_.long_calls.remove(this);
    const std::shared_ptr<PullStream> keep = std::move(self_);  // deleted when this returns
  }

 private:
  enum class Place { kPulling, kWriting, kParked, kDone };
  static constexpr std::int64_t kMaxAgeNs = 3600 * kSecond;
  static constexpr std::int64_t kMaxWriteNs = 300 * kSecond;

  static grpc::Status cancelled() { return {grpc::StatusCode::CANCELLED, "the caller has gone"}; }

  void post_pull() {
    const bool posted =
        state_.lanes.post_next(Lane::kStream, [self = this->shared_from_this()] { self->pull(); });
    if (posted) return;
    // The lanes are stopped: nothing pulls any more.
    std::unique_lock lock(mutex_);
    place_ = Place::kDone;
    const grpc::Status status = end_.value_or(grpc::Status(grpc::StatusCode::UNAVAILABLE, ""));
    lock.unlock();
    finish(status);
  }

  void pull() {
    message_.Clear();
    typename Source::Next next = Source::Next::kEnd;
    std::optional<grpc::Status> failure = ended();
    if (!failure) {
      try {
        next = source_->next(message_);
      } catch (...) {
        failure = to_status(std::current_exception());
      }
    }
    std::unique_lock lock(mutex_);
    if (!failure) failure = end_;
    if (failure || next == Source::Next::kEnd) {
      place_ = Place::kDone;
      lock.unlock();
      return finish(failure.value_or(grpc::Status::OK));
    }
    if (next == Source::Next::kNothingYet) {
      place_ = Place::kParked;
      return;
    }
    place_ = Place::kWriting;
    last_ = next == Source::Next::kLastMessage;
    write_ns_ = steady_ns();
    lock.unlock();
    this->StartWrite(&message_);
  }

  std::optional<grpc::Status> ended() {
    const std::lock_guard lock(mutex_);
    return end_;
  }

  void finish(const grpc::Status& status) {
    state_.metrics.count_stream_ended(method_, code_name(status.error_code()));
    state_.log.write(core::LogLevel::kInfo, "stream_ended",
                     {{"method", method_},
                      {"code", code_name(status.error_code())},
                      {"caller", principal().caller.name},
                      {"peer", principal().caller.peer},
                      {"run", run_},
                      {"seconds", static_cast<double>(steady_ns() - begin_ns_) / 1e9}});
    this->Finish(status);
  }

  ServerState& state_;
  grpc::CallbackServerContext& context_;
  const std::string method_;
  const std::string run_;
  const std::unique_ptr<Source> source_;
  const std::int64_t begin_ns_;
  std::shared_ptr<PullStream> self_;
  Message message_;  // of the owner of the next step
  std::mutex mutex_;
  Place place_ = Place::kPulling;    // guarded by mutex_
  std::optional<grpc::Status> end_;  // guarded by mutex_
  std::int64_t write_ns_ = 0;        // guarded by mutex_
  bool last_ = false;                // guarded by mutex_
};

// Ends at once, with an error.
template <typename Message>
class RefusedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  explicit RefusedStream(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

// Lets the call in and streams what the source that `make` makes has. What it throws is the answer.
template <typename Message>
grpc::ServerWriteReactor<Message>* serve_stream(
    ServerState& state, grpc::CallbackServerContext* context, const char* method,
    const google::protobuf::Message& request,
    const std::function<std::unique_ptr<MessageSource<Message>>(const Principal&)>& make) {
  Principal principal;
  try {
    const MethodRule* rule = find_method(method);
    if (rule == nullptr) {
      throw EngineError(ErrorCode::kPermissionDenied, "UNKNOWN_METHOD", "no rule allows this call");
    }
    state.gate.admit(*context, *rule, &request, principal);
    auto source = make(principal);
    const auto stream = std::make_shared<PullStream<Message>>(
        state, *context, *rule, principal, field_of(request, "name"), std::move(source));
    stream->start();
    return stream.get();
  } catch (...) {
    const grpc::Status status = to_status(std::current_exception());
    state.metrics.count_stream_ended(method, code_name(status.error_code()));
    state.log.write(core::LogLevel::kInfo, "stream_refused",
                    {{"method", method},
                     {"code", code_name(status.error_code())},
                     {"caller", principal.caller.name},
                     {"message", status.error_message()}});
    return new RefusedStream<Message>(status);
  }
}

}  // namespace lockstep::coordinator
