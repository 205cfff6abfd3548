#include "launcher/bench/step_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/memory.h"
#include "launcher/bench/bench_device.h"
#include "launcher/bench/ceilings.h"
#include "launcher/bench/scratch_run.h"
#include "launcher/run_description.h"
#include "runtime/plan/memory_budget.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/ranks/agree.h"
#include "runtime/simulate/step_costs.h"
#include "runtime/trainer/trainer.h"

namespace lockstep::launcher {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

std::size_t used_bytes(core::DeviceRef device) {
  if (device.on_cpu()) return 0;
  std::size_t free = 0;
  std::size_t total = 0;
  core::check_device(*device.runtime,
                     device.runtime->memory_info(device.device.index, &free, &total),
                     "asking for the device's memory");
  return total - free;
}

// The same on every rank, because the decision is.
void refuse_stop(const runtime::StepDecision& decision, std::int64_t step) {
  if (decision.stop == runtime::StopReason::kNone) return;
  if (decision.stop == runtime::StopReason::kRequested) {
    throw runtime::AgreedError(
        core::ErrorKind::kStopped,
        fmt::format("stopped on request after step {}; nothing was measured", step));
  }
  throw runtime::AgreedError(
      core::ErrorKind::kDiverged,
      fmt::format("step {} was {} and ends the run, so there is nothing to measure; with another "
                  "learning rate or data, or health.on_divergence: skip, it goes on",
                  step, runtime::name_of(decision.outcome)));
}

// The steps of a trainer, counted and timed into a measurement.
class MeasuredSteps {
 public:
  MeasuredSteps(runtime::Trainer& trainer, comm::Communicator& communicator,
                StepMeasurement& result)
      : trainer_(trainer), communicator_(communicator), result_(result) {}

  void run(const StepBenchOptions& options) {
    while (trainer_.launched() < options.warmup)
      advance();
    while (trainer_.progress().step < options.warmup)
      refuse_stop(trainer_.settle(), trainer_.progress().step);
    trainer_.context().wait();
    communicator_.barrier("warm-up of the benchmark");
    trainer_.take_phases();
    trainer_.take_iteration_seconds();
    communicator_.measure_times();
    const auto waited = communicator_.waited();
    const Clock::time_point begin = Clock::now();
    Clock::time_point last = begin;
    while (trainer_.progress().step < options.warmup + options.steps) {
      const std::optional<runtime::StepDecision> decision = advance();
      if (!decision) continue;  // the host runs ahead of the device
      note(*decision);
      const Clock::time_point now = Clock::now();
      result_.step_seconds.push_back(seconds_between(last, now));
      last = now;
    }
    trainer_.context().wait();
    result_.all_seconds = seconds_between(begin, Clock::now());
    take_mean_phases(communicator_.waited() - waited);
    take_mean_communication();
  }

 private:
  std::optional<runtime::StepDecision> advance() {
    std::optional<runtime::StepDecision> decision = trainer_.advance();
    if (decision) refuse_stop(*decision, trainer_.progress().step);
    return decision;
  }

  void note(const runtime::StepDecision& decision) {
    if (result_.step_seconds.empty()) result_.first_loss = decision.loss;
    result_.last_loss = decision.loss;
    result_.applied_steps += decision.applied() ? 1 : 0;
  }

  void take_mean_phases(std::chrono::nanoseconds waited) {
    struct Times {
      runtime::PhaseSeconds phases;
      double wait = 0.0;
      double all = 0.0;
      double iterations = 0.0;
    };
    const Times own{trainer_.take_phases(), std::chrono::duration<double>(waited).count(),
                    result_.all_seconds, trainer_.take_iteration_seconds()};
    const auto ranks = static_cast<double>(communicator_.world_size());
    for (const Times& times : communicator_.all_gather_small(own, "phases of the benchmark")) {
      for (int i = 0; i < runtime::kPhases; ++i) {
        const auto phase = static_cast<runtime::Phase>(i);
        result_.phases[phase] += times.phases[phase] / ranks;
      }
      result_.wait_seconds += times.wait / ranks;
      result_.all_seconds = std::max(result_.all_seconds, times.all);
      result_.iteration_seconds = std::max(result_.iteration_seconds, times.iterations);
    }
  }

  void take_mean_communication() {
    const comm::CommTimes own = communicator_.take_times();
    result_.communication.why_unknown = own.why_unknown;
    const auto ranks = static_cast<double>(communicator_.world_size());
    for (const auto& kinds :
         communicator_.all_gather_small(own.by_kind, "communication of the benchmark")) {
      for (std::size_t i = 0; i < kinds.size(); ++i) {
        result_.communication.by_kind[i].hidden += kinds[i].hidden / ranks;
        result_.communication.by_kind[i].exposed += kinds[i].exposed / ranks;
      }
    }
  }

  runtime::Trainer& trainer_;
  comm::Communicator& communicator_;
  StepMeasurement& result_;
};

// Of the rank that has most. Rank 0's plan is the greatest one.
void note_memory(const runtime::MemoryPlan& plan, const core::MemoryTracker& memory,
                 comm::Communicator& communicator, StepMeasurement& result) {
  result.planned_bytes = plan.total();
  result.planned_device_bytes = plan.device_bytes();
  for (const runtime::PlannedRegion& region : plan.regions)
    result.regions[region.name].planned = region.bytes;
  for (const auto& [name, usage] : memory.regions())
    result.regions[name].peak = usage.peak;
  const auto peaks = communicator.all_gather_small(memory.peak(), "memory of the benchmark");
  result.peak_bytes = *std::max_element(peaks.begin(), peaks.end());
}

void note_peaks(ops::OpContext& context, core::DType compute, comm::Communicator& communicator,
                StepMeasurement& result) {
  TimingLimits limits;
  limits.most_seconds = 1.0;
  core::MemoryTracker memory;
  result.peak_size = matrix_size_for(context, compute);
  communicator.barrier("matrix rate of the benchmark");
  double own = 0.0;
  try {
    own = measure_matrix_rate(context, memory, compute, result.peak_size, limits);
  } catch (const core::Error& error) {  // the model has left no room for it
    if (error.kind() != core::ErrorKind::kOutOfMemory) throw;
  }
  for (const double rate : communicator.all_gather_small(own, "matrix rate of the benchmark"))
    result.measured_peak += rate;
  result.device = core::to_string(context.device());
  result.device_name = name_of_device(context.device_ref());
  result.datasheet_peak = datasheet_peak(result.device_name, compute) * communicator.world_size();
}

void note_conventions(const runtime::Config& config, const models::ParameterTable& table,
                      StepMeasurement& result) {
  const models::ModelConfig& model = config.model;
  const double weights = 6.0 * static_cast<double>(table.total_elements());
  const auto scores = static_cast<double>(model.layers * model.width * model.context);
  result.parameters = table.total_elements();
  result.conventions.push_back(
      {model.causal() ? "6N+6LCT causal" : "6N+12LCT", runtime::flop_per_token(config, table)});
  result.conventions.push_back({"PaLM 6N+12LCT", weights + 12.0 * scores});
}

}  // namespace

double StepMeasurement::median_seconds() const {
  std::vector<double> sorted = step_seconds;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

StepMeasurement measure_steps(runtime::Config config, const StepBenchOptions& options,
                              comm::Communicator& communicator,
                              const runtime::BackendDevice& device, const std::atomic<int>& stop,
                              core::Logger& log) {
  const int ranks = communicator.world_size();
  const int threads = threads_of_rank(config, communicator);
  const ScratchRun scratch(config, options.warmup + options.steps, options.synthetic, communicator);
  const runtime::FittedConfig fitted =
      runtime::fit_to_memory(config, threads, communicator, device, log);
  const runtime::Config& used = fitted.config;

  StepMeasurement result;
  result.ranks = ranks;
  result.threads = threads;
  result.comm = communicator.backend();
  result.micro_batch = used.batch.micro;
  result.rounds = runtime::accumulation_rounds(used, ranks);
  result.tokens_per_step = static_cast<double>(used.batch.global * used.model.context);

  core::MemoryTracker memory;
  memory.set_limit(static_cast<std::size_t>(used.memory.limit_mib * 1048576.0));
  runtime::Trainer trainer(used, threads, communicator, memory, log, device);
  trainer.listen_to(stop);
  trainer.start("");
  MeasuredSteps(trainer, communicator, result).run(options);
  note_memory(runtime::plan_memory(used, ranks, threads), memory, communicator, result);
  result.device_used_bytes = used_bytes(trainer.context().device_ref());
  note_conventions(used, trainer.table(), result);
  result.muon = runtime::muon_cost_of(used, trainer.table(), ranks);
  note_peaks(trainer.context(), used.precision.compute, communicator, result);
  communicator.barrier("end of the benchmark");
  return result;
}

}  // namespace lockstep::launcher
