#include "coordinator/client/follow.h"

#include <algorithm>

namespace lockstep::coordinator {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kBetweenStreams{200};
constexpr milliseconds kLongestPause{2'000};
constexpr milliseconds kLongestAbsence{600'000};
constexpr milliseconds kOneWait{55'000};  // the server ends a call after 60 s

// An answer that just missed the deadline is one that says "not yet".
v1::WaitRunResponse wait_once(Client& client, const v1::WaitRunRequest& request,
                              milliseconds time) {
  constexpr int kDeadlineExceeded = 4;
  try {
    return client.wait_run(request, time);
  } catch (const CallError& error) {
    if (error.code() != kDeadlineExceeded) throw;
  }
  v1::GetRunRequest get;
  get.set_name(request.name());
  v1::WaitRunResponse answer;
  *answer.mutable_run() = client.get_run(get);
  return answer;
}

// The run is there, and so is its coordinator: from now on an absence is waited out.
void meet(Client& client, const std::string& name) {
  v1::GetRunRequest request;
  request.set_name(name);
  client.get_run(request);
  client.set_patience(std::max(client.patience(), kLongestAbsence));
}

// Calls `read` again and again until it says that all is read. What is tried again is what was
// away; what was refused is an error.
class Reconnecting {
 public:
  // follow: what goes on until the run has ended.
  Reconnecting(Client& client, const std::string& run, bool follow, Talk talk)
      : client_(client), talk_(std::move(talk)), seen_(follow) {
    if (follow) meet(client, run);
  }

  // `read(contact)` reads one stream, calls contact() at every message and returns whether all is
  // read.
  template <typename Read>
  void run(const Read& read) {
    while (!once(read)) {
      client_.pause(pause_);
      pause_ = std::min(2 * pause_, kLongestPause);
    }
  }

 private:
  template <typename Read>
  bool once(const Read& read) {
    try {
      return read([this] { contact(); });
    } catch (const CallError& error) {
      const milliseconds patience =
          seen_ ? std::max(client_.patience(), kLongestAbsence) : client_.patience();
      if (!error.is_unavailable() || Clock::now() - last_ > patience) throw;
      if (seen_ && !away_) talk_("the coordinator is away; waiting for it, the run goes on");
      away_ = true;
      return false;
    }
  }

  void contact() {
    if (away_ && seen_) talk_("the coordinator is back");
    seen_ = true;
    away_ = false;
    last_ = Clock::now();
    pause_ = kBetweenStreams;
  }

  Client& client_;
  Talk talk_;
  bool seen_;
  bool away_ = false;
  Clock::time_point last_ = Clock::now();
  milliseconds pause_ = kBetweenStreams;
};

}  // namespace

bool has_ended(const v1::Run& run) {
  return run.state() == v1::Run::SUCCEEDED || run.state() == v1::Run::FAILED ||
         run.state() == v1::Run::CANCELLED;
}

JobExit verdict(const v1::Run& run) {
  if (run.state() == v1::Run::SUCCEEDED) return JobExit::kOk;
  return run.state() == v1::Run::CANCELLED ? JobExit::kCancelled : JobExit::kRunFailed;
}

std::optional<v1::Run> read_all_logs(Client& client, v1::ReadLogsRequest request,
                                     const std::function<void(const v1::LogChunk&)>& show,
                                     const Talk& talk) {
  std::optional<v1::Run> last;
  bool ended = false;
  Reconnecting(client, request.name(), request.follow(), talk).run([&](const auto& contact) {
    client.read_logs(request, [&](const v1::LogChunk& chunk) {
      contact();
      show(chunk);
      if (!chunk.cursor().empty()) {
        request.set_after_cursor(chunk.cursor());
        request.clear_tail_lines();
        request.clear_since_time();
      }
      if (chunk.has_run()) last = chunk.run();
      ended = chunk.end_of_stream();
      return !ended;
    });
    return ended || !request.follow();
  });
  return last;
}

std::optional<v1::Run> read_all_metrics(Client& client, v1::ReadMetricsRequest request,
                                        const std::function<void(const v1::MetricsChunk&)>& show,
                                        const Talk& talk) {
  std::optional<v1::Run> last;
  bool ended = false;
  Reconnecting(client, request.name(), request.follow(), talk).run([&](const auto& contact) {
    client.read_metrics(request, [&](const v1::MetricsChunk& chunk) {
      contact();
      show(chunk);
      request.set_after_offset(chunk.next_offset());
      request.clear_tail_lines();
      if (chunk.has_run()) last = chunk.run();
      ended = chunk.end_of_stream();
      return !ended;
    });
    return ended || !request.follow();
  });
  return last;
}

v1::WaitRunResponse wait_for_run(Client& client, const v1::WaitRunRequest& request,
                                 milliseconds timeout) {
  const Clock::time_point end = Clock::now() + timeout;
  meet(client, request.name());
  for (;;) {
    milliseconds time = kOneWait;
    if (timeout.count() > 0) {
      const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
      time = std::clamp(left, milliseconds(100), kOneWait);
    }
    v1::WaitRunResponse answer = wait_once(client, request, time);
    if (answer.reached() || has_ended(answer.run())) return answer;
    if (timeout.count() > 0 && Clock::now() >= end) return answer;
  }
}

v1::CheckpointRunResponse wait_for_checkpoint(Client& client, v1::CheckpointRunRequest request) {
  request.set_wait(false);
  v1::CheckpointRunResponse answer = client.checkpoint_run(request);
  v1::WaitRunRequest wait;
  wait.set_name(answer.run().name());
  wait.set_until(v1::WaitRunRequest::CHECKPOINT_ANSWER);
  wait.set_step(answer.run().checkpoint_request());
  *answer.mutable_run() = wait_for_run(client, wait, milliseconds::zero()).run();
  const v1::Run& run = answer.run();
  if (run.checkpoint_answer() < wait.step()) return answer;
  v1::Checkpoint& made = *answer.mutable_checkpoint();
  made.set_name(run.name() + "/checkpoints/" + std::to_string(run.checkpoint_step()));
  made.set_step(run.checkpoint_step());
  made.set_path(run.latest_checkpoint());
  made.set_verified(true);
  return answer;
}

}  // namespace lockstep::coordinator
