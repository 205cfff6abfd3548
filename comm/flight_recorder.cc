#include "comm/flight_recorder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "comm/flight_format.h"
#include "core/system_error.h"

namespace lockstep::comm {

namespace {

constexpr std::size_t kFileBytes =
    sizeof(FlightFileHeader) + kFlightRecords * sizeof(FlightFileRecord);

std::int64_t unix_nanoseconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

template <typename T>
void publish(T& place, T value) {
  std::atomic_ref<T>(place).store(value, std::memory_order_release);
}

[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("flight recorder: cannot {} {} ({} bytes): {}; run.output must be "
                                "writable and have free space",
                                what, path, kFileBytes, core::describe_errno(error)));
}

void* map_new_file(const std::string& path) {
  // An earlier file may still be mapped by somebody: it is replaced, never cut.
  if (unlink(path.c_str()) != 0 && errno != ENOENT) fail(path, "replace", errno);
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) fail(path, "create", errno);
  const int full = posix_fallocate(file, 0, static_cast<off_t>(kFileBytes));
  void* memory = full != 0 ? MAP_FAILED
                           : mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int error = full != 0 ? full : errno;
  close(file);
  if (memory != MAP_FAILED) return memory;
  unlink(path.c_str());
  fail(path, full != 0 ? "allocate" : "map", error);
}

}  // namespace

FlightRecorder::FlightRecorder(const std::string& path, int rank, int world_size,
                               std::int64_t attempt)
    : header_(static_cast<FlightFileHeader*>(map_new_file(path))) {
  header_->version = kFlightVersion;
  header_->header_bytes = sizeof(FlightFileHeader);
  header_->record_bytes = sizeof(FlightFileRecord);
  header_->record_count = kFlightRecords;
  header_->rank = rank;
  header_->world_size = world_size;
  header_->attempt = attempt;
  header_->pid = getpid();
  header_->opened_ns = unix_nanoseconds();
  header_->seen_ns = header_->opened_ns;
  gethostname(header_->host, sizeof(header_->host) - 1);
  publish(header_->magic, kFlightMagic);
}

FlightRecorder::~FlightRecorder() {
  munmap(header_, kFileBytes);
}

FlightFileRecord& FlightRecorder::record_of(std::uint64_t sequence) const noexcept {
  return reinterpret_cast<FlightFileRecord*>(header_ + 1)[sequence % kFlightRecords];
}

void FlightRecorder::entered(std::uint64_t sequence, Collective collective, std::uint64_t bytes,
                             std::string_view label) noexcept {
  FlightFileRecord& record = record_of(sequence);
  const std::int64_t now = unix_nanoseconds();
  // An exchange, because no write below may become visible before it.
  std::atomic_ref<std::uint64_t>(record.sequence_again).exchange(0);
  record.bytes = bytes;
  record.entered_ns = now;
  record.completed_ns = 0;
  record.state = static_cast<std::uint32_t>(FlightState::kEntered);
  record.collective = static_cast<std::uint32_t>(collective);
  const std::size_t length = std::min(label.size(), kFlightLabelBytes);
  std::memcpy(record.label, label.data(), length);
  std::memset(record.label + length, 0, kFlightLabelBytes - length);
  publish(record.sequence, sequence);
  publish(record.sequence_again, sequence);
  publish(header_->seen_ns, now);
}

void FlightRecorder::completed(std::uint64_t sequence) noexcept {
  FlightFileRecord& record = record_of(sequence);
  if (record.sequence != sequence) return;
  const std::int64_t now = unix_nanoseconds();
  record.completed_ns = now;
  publish(record.state, static_cast<std::uint32_t>(FlightState::kCompleted));
  publish(header_->seen_ns, now);
}

void FlightRecorder::waiting() noexcept {
  publish(header_->seen_ns, unix_nanoseconds());
}

std::string flight_file(const std::string& output, int rank) {
  return fmt::format("{}/flight/rank-{:04}.bin", output, rank);
}

}  // namespace lockstep::comm
