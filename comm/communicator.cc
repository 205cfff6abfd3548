#include "comm/communicator.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "core/check.h"

namespace lockstep::comm {

using core::ConstTensorView;
using core::DType;
using core::TensorView;

std::string_view name_of(Collective collective) {
  switch (collective) {
    case Collective::kBarrier:
      return "barrier";
    case Collective::kAllReduce:
      return "all_reduce";
    case Collective::kReduceScatter:
      return "reduce_scatter";
    case Collective::kAllGather:
      return "all_gather";
    case Collective::kBroadcast:
      return "broadcast";
    case Collective::kAllToAll:
      return "all_to_all";
  }
  return "?";
}

std::optional<CommKind> kind_of(Collective collective) {
  switch (collective) {
    case Collective::kAllReduce:
    case Collective::kReduceScatter:
      return CommKind::kReduce;
    case Collective::kAllGather:
      return CommKind::kGather;
    case Collective::kBarrier:
    case Collective::kBroadcast:
    case Collective::kAllToAll:
      return std::nullopt;
  }
  return std::nullopt;
}

core::TensorView SharedBuffer::view(DType dtype, core::Shape shape, std::size_t byte_offset) const {
  const std::size_t need = static_cast<std::size_t>(shape.elements()) * core::size_of(dtype);
  LOCKSTEP_CHECK_LE(byte_offset + need, bytes(), "view into a shared buffer");
  return {static_cast<std::byte*>(data()) + byte_offset, dtype, shape, device()};
}

namespace {

// Adds its life to `seconds`; null: costs nothing.
class ScopeSeconds {
 public:
  explicit ScopeSeconds(double* seconds) : seconds_(seconds) {
    if (seconds_ != nullptr) begin_ = Clock::now();
  }
  ~ScopeSeconds() {
    if (seconds_ == nullptr) return;
    *seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count();
  }
  ScopeSeconds(const ScopeSeconds&) = delete;
  ScopeSeconds& operator=(const ScopeSeconds&) = delete;

 private:
  using Clock = std::chrono::steady_clock;

  double* seconds_;
  Clock::time_point begin_{};
};

}  // namespace

void Work::wait() {
  if (communicator_ != nullptr) wait(communicator_->default_deadline());
}
void Work::wait(Deadline deadline) {
  wait_output(deadline);
  wait_input(deadline);
}
void Work::wait_output() {
  if (communicator_ != nullptr) wait_output(communicator_->default_deadline());
}
void Work::wait_output(Deadline deadline) {
  if (communicator_ == nullptr) return;
  const ScopeSeconds timed(communicator_->exposed_in(kind_));
  communicator_->do_wait_output(id_, deadline);
}
void Work::wait_input() {
  if (communicator_ != nullptr) wait_input(communicator_->default_deadline());
}
void Work::wait_input(Deadline deadline) {
  if (communicator_ == nullptr) return;
  const ScopeSeconds timed(communicator_->exposed_in(kind_));
  communicator_->do_wait_input(id_, deadline);
}
bool Work::done() {
  return communicator_ == nullptr || communicator_->do_done(id_);
}
bool Work::input_done() {
  return communicator_ == nullptr || communicator_->do_input_done(id_);
}

namespace {

[[noreturn]] void fail_argument(Collective collective, std::string_view label,
                                const std::string& what) {
  throw core::Error(core::ErrorKind::kInternal,
                    fmt::format("{} ({}): {}", name_of(collective), label, what));
}

void check_count(Collective collective, std::string_view label, const char* name,
                 const ConstTensorView& view, std::int64_t expected) {
  if (view.elements() == expected) return;
  fail_argument(
      collective, label,
      fmt::format("expected {} elements in {}, found {}", expected, name, view.elements()));
}

void check_same_dtype(Collective collective, std::string_view label, const ConstTensorView& input,
                      const ConstTensorView& output) {
  if (input.dtype() == output.dtype()) return;
  fail_argument(collective, label,
                fmt::format("input is {} and output is {}; they must be the same",
                            core::name_of(input.dtype()), core::name_of(output.dtype())));
}

void check_reducible(Collective collective, std::string_view label, DType dtype) {
  if (core::is_floating(dtype) || dtype == DType::kI32 || dtype == DType::kI64 ||
      dtype == DType::kU8) {
    return;
  }
  fail_argument(collective, label,
                fmt::format("{} cannot be reduced; use fp32, bf16, fp16, fp64, i32, i64 or u8",
                            core::name_of(dtype)));
}

const std::byte* begin_of(const ConstTensorView& view) {
  return static_cast<const std::byte*>(view.raw());
}

bool overlap(const ConstTensorView& a, const ConstTensorView& b) {
  if (a.bytes() == 0 || b.bytes() == 0) return false;
  const std::less<const std::byte*> before;
  return before(begin_of(a), begin_of(b) + b.bytes()) &&
         before(begin_of(b), begin_of(a) + a.bytes());
}

// Memory may be shared only in the one way that is called in place: `part` is the piece of `whole`
// at byte_offset.
void check_in_place(Collective collective, std::string_view label, const ConstTensorView& part,
                    const ConstTensorView& whole, std::size_t byte_offset, bool allowed) {
  if (!overlap(part, whole)) return;
  if (allowed && begin_of(part) == begin_of(whole) + byte_offset) return;
  fail_argument(collective, label,
                allowed ? "input and output overlap, but not at this rank's own part (in place)"
                        : "input and output overlap; this operation cannot be in place");
}

}  // namespace

Communicator::Communicator(int rank, int world_size, std::string_view backend,
                           std::chrono::milliseconds timeout, core::Device device)
    : rank_(rank), world_size_(world_size), backend_(backend), timeout_(timeout), device_(device) {
  LOCKSTEP_CHECK(world_size >= 1 && rank >= 0 && rank < world_size, "rank {} of {}", rank,
                 world_size);
  LOCKSTEP_CHECK(timeout.count() > 0, "timeout of {} ms", timeout.count());
}

void Communicator::check_view(Collective collective, const ConstTensorView& view, const char* name,
                              std::string_view label) const {
  if (!view.contiguous()) fail_argument(collective, label, fmt::format("{} is strided", name));
  if (view.raw() == nullptr && view.elements() != 0) {
    fail_argument(collective, label, fmt::format("{} has no memory", name));
  }
  if (!serves(view.device())) {
    fail_argument(
        collective, label,
        fmt::format("{} is on {}, which this {} communicator (on {}) does not serve", name,
                    core::to_string(view.device()), backend_, core::to_string(device_)));
  }
}

void Communicator::check_views(Collective collective, const ConstTensorView& input,
                               const ConstTensorView& output, std::string_view label) const {
  check_view(collective, input, "input", label);
  check_view(collective, output, "output", label);
  if (input.device() == output.device()) return;
  fail_argument(collective, label,
                fmt::format("input is on {} and output on {}; they must be on the same device",
                            core::to_string(input.device()), core::to_string(output.device())));
}

Work Communicator::launched(Collective collective, std::uint64_t id) {
  ++count(collective).calls;
  return Work(*this, id, kind_of(collective));
}

Work Communicator::all_reduce(ConstTensorView input, TensorView output, ReduceOp op,
                              std::string_view label) {
  constexpr auto kThis = Collective::kAllReduce;
  check_views(kThis, input, output, label);
  check_reducible(kThis, label, input.dtype());
  check_same_dtype(kThis, label, input, output);
  check_count(kThis, label, "output", output, input.elements());
  check_in_place(kThis, label, input, output, 0, true);
  const ScopeSeconds timed(hidden_in(CommKind::kReduce));
  return launched(kThis, do_all_reduce(input, output, op, label));
}

Work Communicator::reduce_scatter(ConstTensorView input, TensorView output, Output mode,
                                  std::string_view label) {
  constexpr auto kThis = Collective::kReduceScatter;
  check_views(kThis, input, output, label);
  check_reducible(kThis, label, input.dtype());
  if (input.device().type != core::DeviceType::kCpu) {
    check_same_dtype(kThis, label, input, output);
    if (mode == Output::kAccumulate) {
      fail_argument(kThis, label,
                    "kAccumulate on device memory; reduce with kOverwrite and add on the device");
    }
  }
  const bool half = input.dtype() == DType::kBF16 || input.dtype() == DType::kF16;
  if (!(half && output.dtype() == DType::kF32)) check_same_dtype(kThis, label, input, output);
  check_count(kThis, label, "input", input, output.elements() * world_size_);
  const bool allowed = mode == Output::kOverwrite && input.dtype() == output.dtype();
  check_in_place(kThis, label, output, input, output.bytes() * static_cast<std::size_t>(rank_),
                 allowed);
  const ScopeSeconds timed(hidden_in(CommKind::kReduce));
  return launched(kThis, do_reduce_scatter(input, output, mode, label));
}

Work Communicator::all_gather(ConstTensorView input, TensorView output, std::string_view label) {
  const ScopeSeconds timed(hidden_in(CommKind::kGather));
  return launch_all_gather(input, output, label);
}

Work Communicator::launch_all_gather(ConstTensorView input, TensorView output,
                                     std::string_view label) {
  constexpr auto kThis = Collective::kAllGather;
  check_views(kThis, input, output, label);
  check_same_dtype(kThis, label, input, output);
  check_count(kThis, label, "output", output, input.elements() * world_size_);
  check_in_place(kThis, label, input, output, input.bytes() * static_cast<std::size_t>(rank_),
                 true);
  return launched(kThis, do_all_gather(input, output, label));
}

Work Communicator::broadcast(TensorView data, int root, std::string_view label) {
  constexpr auto kThis = Collective::kBroadcast;
  check_view(kThis, data, "data", label);
  if (root < 0 || root >= world_size_) {
    fail_argument(kThis, label, fmt::format("root {} of {} ranks", root, world_size_));
  }
  return launched(kThis, do_broadcast(data, root, label));
}

Work Communicator::all_to_all(ConstTensorView input, TensorView output, std::string_view label) {
  constexpr auto kThis = Collective::kAllToAll;
  check_views(kThis, input, output, label);
  check_same_dtype(kThis, label, input, output);
  check_count(kThis, label, "output", output, input.elements());
  if (input.elements() % world_size_ != 0) {
    fail_argument(
        kThis, label,
        fmt::format("{} elements do not divide among {} ranks", input.elements(), world_size_));
  }
  check_in_place(kThis, label, input, output, 0, false);
  return launched(kThis, do_all_to_all(input, output, label));
}

void Communicator::barrier(std::string_view label) {
  launched(Collective::kBarrier, do_barrier(label)).wait_output();
}

void Communicator::gather_bytes(std::span<const std::byte> mine, std::span<std::byte> all,
                                std::string_view label) {
  const auto n = static_cast<std::int64_t>(mine.size());
  Work work = launch_all_gather(ConstTensorView(mine.data(), DType::kU8, {n}),
                                TensorView(all.data(), DType::kU8, {n * world_size_}), label);
  work.kind_.reset();
  work.wait();
}

std::vector<std::string> Communicator::all_gather_bytes(std::string_view bytes,
                                                        std::string_view label) {
  const auto sizes = all_gather_small(static_cast<std::uint64_t>(bytes.size()), label);
  const std::size_t longest = *std::max_element(sizes.begin(), sizes.end());
  std::string mine(bytes);
  mine.resize(longest);
  std::string all(longest * sizes.size(), '\0');
  gather_bytes(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)), label);
  std::vector<std::string> result;
  result.reserve(sizes.size());
  for (std::size_t r = 0; r < sizes.size(); ++r)
    result.push_back(all.substr(r * longest, sizes[r]));
  return result;
}

SharedBuffer Communicator::allocate(std::size_t bytes, const std::string& region,
                                    core::MemoryTracker& tracker, BufferUse use) {
  return do_allocate(bytes, region, tracker, use);
}

SharedBuffer Communicator::allocate_host(std::size_t bytes, const std::string& region,
                                         core::MemoryTracker& tracker) {
  return do_allocate_host(bytes, region, tracker);
}

SharedBuffer Communicator::do_allocate_host(std::size_t bytes, const std::string& region,
                                            core::MemoryTracker& tracker) {
  return do_allocate(bytes, region, tracker, BufferUse::kReduced);
}

void Communicator::work_on(const core::DeviceStream& stream) {
  LOCKSTEP_CHECK(stream.handle() != nullptr, "work_on was given no stream");
  do_work_on(stream);
}

void Communicator::do_work_on(const core::DeviceStream& stream) {
  throw core::Error(core::ErrorKind::kInternal,
                    fmt::format("work_on a stream of {}: this {} communicator serves the CPU only",
                                core::to_string(stream.device()), backend_));
}

void Communicator::progress() {
  const ScopeSeconds timed(hidden_in(last_launched_));
  do_progress();
}

double* Communicator::hidden_in(CommKind kind) {
  if (times_ == nullptr) return nullptr;
  last_launched_ = kind;
  return &(*times_)[kind].hidden;
}

double* Communicator::exposed_in(std::optional<CommKind> kind) {
  return times_ == nullptr || !kind ? nullptr : &(*times_)[*kind].exposed;
}

void Communicator::measure_times() {
  if (world_size_ > 1) do_measure_times();
}

CommTimes Communicator::take_times() {
  if (world_size_ > 1) return do_take_times();
  CommTimes none;
  none.why_unknown = "one rank has nobody to communicate with";
  return none;
}

void Communicator::do_measure_times() {
  times_ = std::make_unique<CommTimes>();
}

CommTimes Communicator::do_take_times() {
  LOCKSTEP_CHECK(times_ != nullptr, "take_times() without measure_times()");
  return std::exchange(*times_, {});
}

void Communicator::abort(core::ErrorKind kind, std::string_view reason) noexcept {
  do_abort(kind, reason);
}

}  // namespace lockstep::comm
