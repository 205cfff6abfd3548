#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "coordinator/server/method_table.h"

namespace lockstep::coordinator {

// Threads that do the work of calls, so that the few threads of gRPC never wait for a disk. Each
// lane has its own threads and its own queue: a slow kind of call delays only its own kind.
class WorkLanes {
 public:
  WorkLanes();
  ~WorkLanes();
  WorkLanes(const WorkLanes&) = delete;
  WorkLanes& operator=(const WorkLanes&) = delete;

  // False, and nothing is done, when the lane's queue is full (kMaxQueue) or after stop(). A job
  // must not throw.
  [[nodiscard]] bool post(Lane lane, std::function<void()> job);
  // As post, but for the next step of a stream: these are bounded by the number of streams, so the
  // queue is never full for them. False only after stop().
  bool post_next(Lane lane, std::function<void()> job);

  // What is queued is still done, then the threads end. May be called twice.
  void stop();

  static constexpr std::size_t kMaxQueue = 2000;

 private:
  struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> jobs;
    bool stopped = false;
  };

  bool push(Lane lane, std::function<void()> job, std::size_t most);
  static void work(Queue& queue);

  std::array<Queue, kLanes> queues_;
  std::vector<std::thread> threads_;
};

}  // namespace lockstep::coordinator
