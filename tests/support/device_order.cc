#include "tests/support/device_order.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::testing {

std::size_t DeviceOrder::Clock::of(int stream) const {
  const auto s = static_cast<std::size_t>(stream);
  return s < over.size() ? over[s] : 0;
}

void DeviceOrder::Clock::set(int stream, std::size_t count) {
  const auto s = static_cast<std::size_t>(stream);
  if (s >= over.size()) over.resize(s + 1);
  over[s] = count;
}

void DeviceOrder::Clock::join(const Clock& other) {
  if (other.over.size() > over.size()) over.resize(other.over.size());
  for (std::size_t s = 0; s < other.over.size(); ++s)
    over[s] = std::max(over[s], other.over[s]);
}

bool DeviceOrder::Clock::includes(const Clock& other) const {
  for (std::size_t s = 0; s < other.over.size(); ++s)
    if (of(static_cast<int>(s)) < other.over[s]) return false;
  return true;
}

DeviceOrder::DeviceOrder(const DeviceTrace& trace, const std::set<std::size_t>& without) {
  for (std::size_t i = 0; i < trace.calls.size(); ++i) {
    if (without.contains(i)) {
      points_.emplace_back();
    } else {
      add(trace.calls[i]);
    }
  }
}

DeviceOrder::Clock& DeviceOrder::stream(int number) {
  const auto s = static_cast<std::size_t>(number);
  if (s >= streams_.size()) streams_.resize(s + 1);
  return streams_[s];
}

void DeviceOrder::add(const TraceCall& call) {
  Point point;
  point.stream = call.stream;
  if (call.stream >= 0) {
    Clock& clock = stream(call.stream);
    clock.join(host_);
    point.before = clock;
    if (call.is_work()) {
      point.number = given_.of(call.stream) + 1;
      given_.set(call.stream, point.number);
      clock.set(call.stream, point.number);
    }
  }
  const bool known = call.recorded != TraceCall::kNever;
  if (call.kind == CallKind::kWait && known)
    stream(call.stream).join(points_[call.recorded].before);
  if (call.kind == CallKind::kSynchronize) wait_on_host(call, point.before);
  if (call.kind == CallKind::kAwait || call.kind == CallKind::kFoundFinished)
    wait_on_host(call, known ? points_[call.recorded].before : Clock{});
  points_.push_back(std::move(point));
}

void DeviceOrder::wait_on_host(const TraceCall& call, const Clock& over) {
  const bool waits = !host_.includes(over);
  host_.join(over);
  host_waits_.push_back({points_.size(), call.step, call.kind, waits, under_way()});
}

std::vector<std::size_t> DeviceOrder::under_way() const {
  std::vector<std::size_t> counts;
  for (std::size_t s = 0; s < given_.over.size(); ++s)
    counts.push_back(given_.over[s] - host_.of(static_cast<int>(s)));
  return counts;
}

bool DeviceOrder::ordered(std::size_t first, std::size_t second) const {
  return points_[second].before.of(points_[first].stream) >= points_[first].number;
}

bool DeviceOrder::holds(const std::vector<Hazard>& hazards) const {
  return std::all_of(hazards.begin(), hazards.end(),
                     [this](const Hazard& hazard) { return ordered(hazard.first, hazard.second); });
}

namespace {

// Whether one of the two writes what the other touches.
bool clash(const TraceCall& a, const TraceCall& b) {
  for (const Access& x : a.touches)
    for (const Access& y : b.touches)
      if ((x.writes || y.writes) && x.overlaps(y)) return true;
  return false;
}

}  // namespace

std::vector<Hazard> hazards_of(const DeviceTrace& trace) {
  std::vector<std::size_t> work;
  for (std::size_t i = 0; i < trace.calls.size(); ++i)
    if (trace.calls[i].is_work()) work.push_back(i);
  std::vector<Hazard> hazards;
  for (std::size_t second = 0; second < work.size(); ++second) {
    for (std::size_t first = 0; first < second; ++first) {
      const TraceCall& a = trace.calls[work[first]];
      const TraceCall& b = trace.calls[work[second]];
      if (a.stream != b.stream && clash(a, b)) hazards.push_back({work[first], work[second]});
    }
  }
  return hazards;
}

std::string describe(const DeviceTrace& trace, const Hazard& hazard) {
  const TraceCall& first = trace.calls[hazard.first];
  const TraceCall& second = trace.calls[hazard.second];
  const bool reads = std::none_of(first.touches.begin(), first.touches.end(), [&](const Access& a) {
    return a.writes && second.reads_or_writes(a);
  });
  const bool read =
      std::none_of(second.touches.begin(), second.touches.end(),
                   [&](const Access& a) { return a.writes && first.reads_or_writes(a); });
  return fmt::format("{} {} what {} {}, and nothing orders them", trace.describe(hazard.first),
                     reads ? "reads" : "writes", trace.describe(hazard.second),
                     read ? "reads" : "writes");
}

}  // namespace lockstep::testing
