#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/support/status.h>

#include "coordinator/server/call_gate.h"

namespace lockstep::coordinator {

// What a long call is shown from time to time.
struct CallMoment {
  std::int64_t now_ns = 0;    // steady
  std::int64_t sequence = 0;  // newest event of the engine
};

// A call that waits for things to happen: a stream, or WaitRun. It holds no thread while it waits.
class LongCall {
 public:
  explicit LongCall(Principal principal) : principal_(std::move(principal)) {}
  virtual ~LongCall() = default;
  LongCall(const LongCall&) = delete;
  LongCall& operator=(const LongCall&) = delete;

  // Something may have happened. Returns at once.
  virtual void look(const CallMoment& moment) = 0;
  // The call is to end with this status, as soon as that can be.
  virtual void end(const grpc::Status& status) = 0;

  const Principal& principal() const { return principal_; }

 private:
  const Principal principal_;
};

// All long calls, and the one thread that wakes them: after each event, and every 100 ms. It ends
// those whose token is no longer good. Thread-safe.
class LongCalls {
 public:
  LongCalls(Engine& engine, const CallGate& gate, int streams_per_caller);
  ~LongCalls();
  LongCalls(const LongCalls&) = delete;
  LongCalls& operator=(const LongCalls&) = delete;

  enum class Kind : std::uint8_t { kStream, kWait };

  // Throws EngineError: RESOURCE_EXHAUSTED (TOO_MANY_STREAMS) beyond the caller's number,
  // UNAVAILABLE after stop().
  void add(const std::shared_ptr<LongCall>& call, Kind kind);
  void remove(const LongCall* call);
  std::size_t count(Kind kind) const;

  // Ends all with UNAVAILABLE (SHUTTING_DOWN) and takes no new ones; then the thread ends.
  void stop();

  static constexpr int kWaitsPerCaller = 1000;

 private:
  struct Entry {
    std::shared_ptr<LongCall> call;
    Kind kind;
  };

  void run();
  std::vector<std::shared_ptr<LongCall>> all() const;
  void end_invalid(const std::vector<std::shared_ptr<LongCall>>& calls);

  Engine& engine_;
  const CallGate& gate_;
  const int streams_per_caller_;
  mutable std::mutex mutex_;
  std::map<const LongCall*, Entry> calls_;              // guarded by mutex_
  std::map<std::pair<std::string, Kind>, int> counts_;  // guarded by mutex_
  bool stopped_ = false;                                // guarded by mutex_
  std::condition_variable added_;
  std::thread thread_;
};

}  // namespace lockstep::coordinator
