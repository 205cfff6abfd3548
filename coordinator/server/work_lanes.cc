#include "coordinator/server/work_lanes.h"

#include <limits>
#include <utility>

namespace lockstep::coordinator {
namespace {

// Two where calls are many and short; one where the store has one writer anyway.
constexpr int threads_of(Lane lane) {
  return lane == Lane::kRead || lane == Lane::kStream ? 2 : 1;
}

}  // namespace

WorkLanes::WorkLanes() {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < threads_of(static_cast<Lane>(lane)); ++i) {
      Queue& queue = queues_[static_cast<std::size_t>(lane)];
      threads_.emplace_back([&queue] { work(queue); });
    }
  }
}

WorkLanes::~WorkLanes() {
  stop();
}

bool WorkLanes::post(Lane lane, std::function<void()> job) {
  return push(lane, std::move(job), kMaxQueue);
}

bool WorkLanes::post_next(Lane lane, std::function<void()> job) {
  return push(lane, std::move(job), std::numeric_limits<std::size_t>::max());
}

bool WorkLanes::push(Lane lane, std::function<void()> job, std::size_t most) {
  Queue& queue = queues_[static_cast<std::size_t>(lane)];
  {
    const std::lock_guard lock(queue.mutex);
    if (queue.stopped || queue.jobs.size() >= most) return false;
    queue.jobs.push_back(std::move(job));
  }
  queue.changed.notify_one();
  return true;
}

void WorkLanes::stop() {
  for (Queue& queue : queues_) {
    const std::lock_guard lock(queue.mutex);
    queue.stopped = true;
    queue.changed.notify_all();
  }
  for (std::thread& thread : threads_)
    thread.join();
  threads_.clear();
}

void WorkLanes::work(Queue& queue) {
  std::unique_lock lock(queue.mutex);
  while (true) {
    queue.changed.wait(lock, [&queue] { return queue.stopped || !queue.jobs.empty(); });
    if (queue.jobs.empty()) return;
    const std::function<void()> job = std::move(queue.jobs.front());
    queue.jobs.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace lockstep::coordinator
