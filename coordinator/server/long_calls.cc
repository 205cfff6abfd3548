#include "coordinator/server/long_calls.h"

#include <fmt/format.h>

#include "coordinator/server/rpc_error.h"

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kRoundNs = 100'000'000;

EngineError shutting_down() {
  return {ErrorCode::kUnavailable, "SHUTTING_DOWN",
          "the coordinator is being stopped; training goes on; call again when it is back"};
}

}  // namespace

LongCalls::LongCalls(Engine& engine, const CallGate& gate, int streams_per_caller)
    : engine_(engine),
      gate_(gate),
      streams_per_caller_(streams_per_caller),
      thread_([this] { run(); }) {}

LongCalls::~LongCalls() {
  stop();
}

void LongCalls::add(const std::shared_ptr<LongCall>& call, Kind kind) {
  const int most = kind == Kind::kStream ? streams_per_caller_ : kWaitsPerCaller;
  const std::lock_guard lock(mutex_);
  if (stopped_) throw shutting_down();
  int& count = counts_[{call->principal().caller.name, kind}];
  if (count >= most) {
    throw EngineError(ErrorCode::kResourceExhausted, "TOO_MANY_STREAMS",
                      fmt::format("expected at most {} open {} of one caller; close one first",
                                  most, kind == Kind::kStream ? "streams" : "waiting calls"));
  }
  ++count;
  calls_.emplace(call.get(), Entry{call, kind});
  added_.notify_one();
}

void LongCalls::remove(const LongCall* call) {
  const std::lock_guard lock(mutex_);
  const auto entry = calls_.find(call);
  if (entry == calls_.end()) return;
  const auto count = counts_.find({call->principal().caller.name, entry->second.kind});
  if (--count->second == 0) counts_.erase(count);
  calls_.erase(entry);
}

std::size_t LongCalls::count(Kind kind) const {
  const std::lock_guard lock(mutex_);
  std::size_t total = 0;
  for (const auto& [key, count] : counts_) {
    if (key.second == kind) total += static_cast<std::size_t>(count);
  }
  return total;
}

std::vector<std::shared_ptr<LongCall>> LongCalls::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<LongCall>> calls;
  calls.reserve(calls_.size());
  for (const auto& [key, entry] : calls_)
    calls.push_back(entry.call);
  return calls;
}

void LongCalls::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    added_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  for (const auto& call : all())
    call->end(to_status(shutting_down()));
}

void LongCalls::end_invalid(const std::vector<std::shared_ptr<LongCall>>& calls) {
  for (const auto& call : calls) {
    if (gate_.still_valid(call->principal())) continue;
    call->end(to_status(EngineError(ErrorCode::kUnauthenticated, "BAD_TOKEN",
                                    "the token was revoked or has expired")));
  }
}

void LongCalls::run() {
  std::int64_t sequence = engine_.newest_sequence();
  while (true) {
    {
      std::unique_lock lock(mutex_);
      added_.wait(lock, [this] { return stopped_ || !calls_.empty(); });
      if (stopped_) return;
    }
    sequence = engine_.wait_for_change(sequence, kRoundNs);
    const std::vector<std::shared_ptr<LongCall>> calls = all();
    end_invalid(calls);
    const CallMoment moment{steady_ns(), sequence};
    for (const auto& call : calls)
      call->look(moment);
  }
}

}  // namespace lockstep::coordinator
