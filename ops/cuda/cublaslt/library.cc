#include "ops/cuda/cublaslt/library.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>

namespace lockstep::ops::cuda {

namespace {

constexpr int kCandidates = 16;
constexpr int kRounds = 2;              // of a timing; the faster one counts
constexpr int kCallsPerRound = 3;       // after one call to warm up
constexpr double kSearchSeconds = 1.0;  // after that no further algorithm of a product is tried
constexpr double kNever = std::numeric_limits<double>::infinity();

// Seconds of one call on the device; `call` returns whether it could be made.
template <typename F>
double time_call(const OpContext& context, F&& call) {
  if (!call()) return kNever;
  double best = kNever;
  core::DeviceEvent begin(context.device_ref());
  core::DeviceEvent end(context.device_ref());
  for (int round = 0; round < kRounds; ++round) {
    begin.record(context.stream());
    for (int i = 0; i < kCallsPerRound; ++i)
      call();
    end.record(context.stream());
    context.stream().synchronize();
    best = std::min(best, end.seconds_since(begin) / kCallsPerRound);
  }
  return best;
}

std::string timing_text(const ProductKey& key, double seconds) {
  if (seconds == kNever) return "-";
  const double operations =
      2.0 * static_cast<double>(key.m) * static_cast<double>(key.n) * static_cast<double>(key.k);
  return fmt::format("{:.1f} us ({:.0f} TFLOP/s)", seconds * 1e6, operations / seconds * 1e-12);
}

}  // namespace

CublasLt::CublasLt(const OpContext& context) {
  core::DeviceProperties properties;
  const core::DeviceRef device = context.device_ref();
  core::check_device(*device.runtime, device.runtime->properties(device.device.index, &properties),
                     "asking for the properties of a device");
  gpu_ = properties.name;
  gelu_pays_ = properties.major == 9;
  check_cublaslt(cublasLtCreate(&handle_), "opening cuBLASLt");
}

bool CublasLt::run(OpContext& context, const ProductKey& key, const ProductOperands& operands,
                   const Steps& steps) {
  auto known = entries_.find(key);
  if (known == entries_.end()) {
    // Timing the steps may bring in products of their own, so the entry is made only afterwards.
    Entry decided = decide(context, key, operands, steps);
    known = entries_.emplace(key, std::move(decided)).first;
  }
  const Entry& entry = known->second;
  if (!entry.product) return false;
  check_cublaslt(entry.product->launch(context, entry.algorithm, operands), "a product");
  return true;
}

CublasLt::Entry CublasLt::decide(OpContext& context, const ProductKey& key,
                                 const ProductOperands& operands, const Steps& steps) const {
  if (context.determinism() == Determinism::kNone) return search(context, key, operands, steps);
  const ProductChoice* kept = find_choice(algorithm_table(), gpu_, cublasLtGetVersion(), key);
  if (kept != nullptr && !kept->one_call) return {{}, {}, "table: in steps"};
  const bool gelu = key.epilogue == Epilogue::kGelu || key.epilogue == Epilogue::kGeluBias;
  if (kept == nullptr && steps && !(gelu && gelu_pays_)) return {{}, {}, "in steps: not timed"};
  CublasLtProduct product(handle_, key, operands);
  std::string origin = "first heuristic";
  if (kept != nullptr) {
    if (const auto algorithm = product.restored(*kept))
      return {std::move(product), *algorithm, "table"};
    origin += ": the table's algorithm is refused here";
  }
  const auto candidates = product.candidates(1);
  if (candidates.empty()) return {{}, {}, "in steps: cuBLASLt has no algorithm"};
  return {std::move(product), candidates.front(), origin};
}

CublasLt::Entry CublasLt::search(OpContext& context, const ProductKey& key,
                                 const ProductOperands& operands, const Steps& steps) const {
  const auto began = std::chrono::steady_clock::now();
  const auto spent = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  CublasLtProduct product(handle_, key, operands);
  double first = kNever;
  double best = kNever;
  Algorithm chosen;
  std::size_t tried = 0;
  for (const Algorithm& candidate : product.candidates(kCandidates)) {
    if (tried > 0 && spent() > kSearchSeconds) break;
    const double seconds = time_call(context, [&] {
      return product.launch(context, candidate, operands) == CUBLAS_STATUS_SUCCESS;
    });
    if (tried++ == 0) first = seconds;
    if (seconds >= best) continue;
    best = seconds;
    chosen = candidate;
  }
  double in_steps = kNever;
  if (steps) {
    in_steps = time_call(context, [&] {
      steps();
      return true;
    });
  }
  const std::string times =
      fmt::format("best of {} {}, first {}, in steps {}", tried, timing_text(key, best),
                  timing_text(key, first), timing_text(key, in_steps));
  if (best == kNever || in_steps < best) return {{}, {}, "in steps: " + times};
  return {std::move(product), chosen, times};
}

std::string CublasLt::describe() const {
  std::string lines;
  for (const auto& [key, entry] : entries_) {
    const ProductChoice choice =
        entry.product ? choice_of(entry.algorithm) : ProductChoice{false, {}};
    lines += table_line(gpu_, cublasLtGetVersion(), key, choice) + "  // " + entry.origin;
    if (entry.product) lines += "; " + cuda::describe(entry.algorithm.choice);
    lines += "\n";
  }
  return lines;
}

}  // namespace lockstep::ops::cuda
