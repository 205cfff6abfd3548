#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "tests/support/device_trace.h"

namespace lockstep::testing {

// A call in which the host waits for the device.
struct HostWait {
  std::size_t call = 0;  // its place in the order of this rank's calls
  int step = 0;
  CallKind kind = CallKind::kSynchronize;
  bool waits = false;  // for work that the host did not know to be over
  // By stream: pieces of work given before that it does not wait for. 0: that stream may have
  // nothing left to do when it returns, and then waits for the host.
  std::vector<std::size_t> behind{};
};

// Two pieces of work on different streams that touch the same bytes, one of them writing.
struct Hazard {
  std::size_t first = 0;  // in the order of the calls
  std::size_t second = 0;
};

// What happens before what, whatever the speed of device and host: work on a stream in the order of
// the calls; work behind a wait after the point that the event was recorded at; calls of the host
// in order, each after what the host has waited for, and the work that they give after them.
class DeviceOrder {
 public:
  DeviceOrder() = default;
  // without: kWait calls that are taken not to have been made.
  explicit DeviceOrder(const DeviceTrace& trace, const std::set<std::size_t>& without = {});

  // Appends a call, which is number size().
  void add(const TraceCall& call);
  std::size_t size() const { return points_.size(); }

  // Whether `second` begins after `first` has ended, both work.
  bool ordered(std::size_t first, std::size_t second) const;
  // Whether the host knows, after the calls so far, that the point of this kRecord has been
  // reached.
  bool host_knows(std::size_t record) const { return host_.includes(points_[record].before); }
  // Whether all of these are ordered.
  bool holds(const std::vector<Hazard>& hazards) const;

  // All of them, in order.
  const std::vector<HostWait>& host_waits() const { return host_waits_; }

 private:
  // How much of the work of each stream is over.
  struct Clock {
    std::vector<std::size_t> over;  // by stream; 0 where it is too short

    std::size_t of(int stream) const;
    void set(int stream, std::size_t count);
    void join(const Clock& other);
    bool includes(const Clock& other) const;
  };

  // Of a call: what is over when it begins, and which of its stream's work it is (from 1).
  struct Point {
    Clock before;
    int stream = -1;
    std::size_t number = 0;
  };

  Clock& stream(int number);
  void wait_on_host(const TraceCall& call, const Clock& over);
  std::vector<std::size_t> under_way() const;  // by stream: work not known to be over

  std::vector<Point> points_;
  std::vector<Clock> streams_;  // what comes before the next work of each
  Clock given_;                 // work given to each stream so far
  Clock host_;                  // what the host knows to be over
  std::vector<HostWait> host_waits_;
};

// All that have to be ordered in a trace. Work of one stream always is.
std::vector<Hazard> hazards_of(const DeviceTrace& trace);

// "A writes what B reads, and nothing orders them"
std::string describe(const DeviceTrace& trace, const Hazard& hazard);

}  // namespace lockstep::testing
