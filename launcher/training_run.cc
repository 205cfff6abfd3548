#include "launcher/training_run.h"

#include <fmt/format.h>

#include <atomic>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "comm/flight_recorder.h"
#include "comm/mpi/mpi_environment.h"
#include "coordinator/agent/agent.h"
#include "core/log.h"
#include "core/memory.h"
#include "launcher/device_choice.h"
#include "launcher/exit_record.h"
#include "launcher/run_description.h"
#include "launcher/stop_request.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/config/load_config.h"
#include "runtime/device/backend_device.h"
#include "runtime/plan/memory_budget.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/ranks/agree.h"
#include "runtime/trainer/run_directory.h"
#include "runtime/trainer/trainer.h"

namespace lockstep::launcher {

namespace {

runtime::ResumeChoice parse_resume(const std::string& text) {
  if (text == "never") return {runtime::ResumeMode::kNever, ""};
  if (text == "auto") return {runtime::ResumeMode::kAuto, ""};
  return {runtime::ResumeMode::kPath, text};
}

// The checkpoint to continue from; empty: start at step 1. The same on every rank.
std::string choose_checkpoint(const runtime::Config& config, const runtime::ResumeChoice& resume,
                              const runtime::RunDirectory& directory,
                              comm::Communicator& communicator, core::Logger& log) {
  if (resume.mode == runtime::ResumeMode::kNever) return "";
  std::string chosen = resume.path;
  runtime::agree(communicator, "choice of checkpoint", [&] {
    if (communicator.rank() != 0) return;
    if (resume.mode == runtime::ResumeMode::kPath) {
      runtime::verify_checkpoint(runtime::read_manifest(chosen));
      return;
    }
    const auto wanted =
        directory.follows_divergence() ? runtime::Wanted::kHealthy : runtime::Wanted::kWhole;
    const auto found = runtime::checkpoint_to_continue(config.run.output, log, wanted);
    if (found) chosen = found->directory;
  });
  return communicator.all_gather_bytes(chosen, "chosen checkpoint").front();
}

// Keeps this rank's last collectives in OUTPUT/flight from here on.
void record_flight(const runtime::Config& config, const runtime::RunDirectory& directory,
                   comm::Communicator& communicator,
                   std::optional<comm::FlightRecorder>& recorder) {
  runtime::agree(communicator, "flight recorder", [&] {
    recorder.emplace(comm::flight_file(config.run.output, communicator.rank()), communicator.rank(),
                     communicator.world_size(), directory.attempt());
  });
  communicator.record_to(&*recorder);
}

// Under a coordinator rank 0 tells it how the run gets on, and passes on what it wants.
void tell_coordinator(const runtime::Config& config, runtime::Trainer& trainer,
                      const comm::Communicator& communicator, core::Logger& log,
                      std::optional<coordinator::agent::Agent>& agent) {
  if (communicator.rank() != 0) return;
  std::optional<coordinator::agent::AgentOptions> options =
      coordinator::agent::options_from_environment();
  if (!options) return;
  coordinator::agent::RunFacts facts;
  facts.world_size = communicator.world_size();
  facts.total_steps = config.train.steps;
  facts.resumed_step = trainer.progress().step;
  facts.flight_file = comm::flight_file(config.run.output, 0);
  agent.emplace(std::move(*options), std::move(facts), trainer.monitor(), log);
}

// Builds the trainer and trains; record.step is what was reached, however it ends.
void train_fitted(const runtime::FittedConfig& fitted, const std::string& checkpoint,
                  const runtime::RunDirectory& directory, comm::Communicator& communicator,
                  const runtime::BackendDevice& device, core::MemoryTracker& memory,
                  const StopRequest& stop, core::Logger& log, ExitRecord& record) {
  const runtime::Config& config = fitted.config;
  const int threads = threads_of_rank(config, communicator.world_size());
  runtime::Trainer trainer(config, threads, communicator, memory, log, device);
  trainer.set_attempt(directory.attempt());
  trainer.listen_to(stop.flag());
  const std::string run_line = run_line_fields(config, communicator, threads, device);
  if (checkpoint.empty()) {
    trainer.start(run_line);
  } else {
    trainer.resume(checkpoint, run_line);
  }
  if (!fitted.health.empty()) trainer.tell_health(fitted.health);
  directory.write_config(config);
  log.info("run", "{}", run_description(config, communicator, threads, trainer.table(), device));
  std::optional<coordinator::agent::Agent> agent;
  tell_coordinator(config, trainer, communicator, log, agent);
  try {
    trainer.run();
  } catch (...) {
    record.step = trainer.progress().step;
    throw;
  }
  record.step = trainer.progress().step;
}

void train(const runtime::Config& config, const runtime::ResumeChoice& resume,
           const runtime::RunDirectory& directory, comm::Communicator& communicator,
           const runtime::BackendDevice& device, const StopRequest& stop, core::Logger& log,
           ExitRecord& record) {
  const std::string checkpoint = choose_checkpoint(config, resume, directory, communicator, log);
  const int ranks = communicator.world_size();
  const int threads = threads_of_rank(config, ranks);
  const runtime::FittedConfig fitted =
      runtime::fit_to_memory(config, threads, communicator, device, log);
  core::MemoryTracker memory;
  memory.set_limit(static_cast<std::size_t>(config.memory.limit_mib * 1048576.0));
  try {
    train_fitted(fitted, checkpoint, directory, communicator, device, memory, stop, log, record);
  } catch (const runtime::AgreedError&) {
    throw;
  } catch (const core::Error& error) {
    if (error.kind() != core::ErrorKind::kOutOfMemory) throw;
    const auto plan = runtime::plan_memory(fitted.config, ranks, threads, communicator.rank());
    throw core::Error(error.kind(), fmt::format("{}; planned and held:\n{}", error.what(),
                                                runtime::to_table(plan, &memory)));
  } catch (const std::bad_alloc&) {
    // The plan fits, so this was something small beside it, on a host that has nothing left.
    const auto plan = runtime::plan_memory(fitted.config, ranks, threads, communicator.rank());
    throw core::Error(
        core::ErrorKind::kOutOfMemory,
        fmt::format(
            "the host's memory ran out in an allocation outside of the plan, after step {}; "
            "free memory there, or use fewer ranks per host\n{}",
            record.step, runtime::to_table(plan, &memory)));
  }
}

// Tells an error where it belongs, lets the peers know, and puts it into the exit record.
void conclude(const std::exception_ptr& failure, comm::Communicator& communicator,
              core::Logger& log, ExitRecord& record) {
  const auto lost = [&](core::ErrorKind kind, const std::string& message) {
    log.error("run", "{}: {}", core::describe(kind), message);
    // To its peers a rank that broke is a lost rank.
    communicator.abort(kind == core::ErrorKind::kInternal ? core::ErrorKind::kCommunication : kind,
                       message);
    record.exit_code = static_cast<int>(kind);
    record.reason = core::describe(kind);
    record.message = message;
  };
  try {
    std::rethrow_exception(failure);
  } catch (const runtime::AgreedError& error) {
    const bool asked_for = error.kind() == core::ErrorKind::kStopped;
    if (log.rank() == 0 && asked_for) log.info("run", "{}", error.what());
    if (log.rank() == 0 && !asked_for) {
      log.error("run", "{}: {}", core::describe(error.kind()), error.what());
    }
    record.exit_code = error.exit_code();
    record.reason = core::describe(error.kind());
    record.message = error.what();
  } catch (const core::Error& error) {
    lost(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    lost(core::ErrorKind::kOutOfMemory, "out of host memory");
  } catch (const std::exception& error) {
    lost(core::ErrorKind::kInternal, error.what());
  }
}

// Writes the exit record of a rank whose device never comes back, and with it the thread that
// should have written one.
class StuckRank {
 public:
  StuckRank(std::string output, ExitRecord record)
      : output_(std::move(output)), record_(std::move(record)) {}

  // Whose record it would be; 0: of none, as before the first call.
  void set_attempt(std::int64_t attempt) { attempt_ = attempt; }

  // From any thread.
  void leave_record(const std::string& cause) {
    if (attempt_ == 0) return;
    record_.attempt = attempt_;
    record_.exit_code = static_cast<int>(core::ErrorKind::kCommunication);
    record_.reason = core::describe(core::ErrorKind::kCommunication);
    record_.message = cause;
    write_exit_record(output_, record_);
  }

 private:
  std::string output_;
  ExitRecord record_;  // its step is not known: that of the last checkpoint counts
  std::atomic<std::int64_t> attempt_{0};
};

// Ranks leave together: mpirun kills the others about a second after the first non-zero exit.
void leave_together(comm::Communicator& communicator) noexcept {
  try {
    communicator.barrier("end of the run");
  } catch (const std::exception&) {
    // A peer is gone already; what it failed of has been told.
  }
}

}  // namespace

std::string check_training_request(const TrainRequest& request, int ranks) {
  const runtime::Config config = runtime::load_config(request.config_file, request.overrides);
  runtime::validate_for_world(config, ranks);
  return config.run.output;
}

int run_training(const TrainRequest& request) {
  const StopRequest stop;  // first: a request that comes while the ranks are starting counts too
  std::optional<comm::MpiEnvironment> environment;
  if (comm::started_by_mpi_launcher()) environment.emplace();
  const int rank = environment ? environment->rank() : 0;
  const int world_size = environment ? environment->world_size() : 1;
  core::Logger log(rank, world_size);
  int code = 0;
  try {
    if (environment && request.ranks_given) {
      throw core::Error(
          core::ErrorKind::kConfig,
          "--ranks starts mpirun itself: leave it out under mpirun or srun, which already say how "
          "many ranks there are");
    }
    runtime::Config config = runtime::load_config(request.config_file, request.overrides);
    runtime::validate_for_world(config, world_size);
    ExitRecord record;
    record.rank = rank;
    record.world_size = world_size;
    StuckRank stuck(config.run.output, record);
    const auto [device, communicator] =
        connect_ranks(config, environment ? &*environment : nullptr, log,
                      [&stuck](const std::string& cause) { stuck.leave_record(cause); });
    std::optional<comm::FlightRecorder> recorder;
    std::optional<runtime::RunDirectory> directory;  // locked until the exit record is written
    try {
      const runtime::ResumeChoice resume = parse_resume(request.resume);
      directory.emplace(config, resume, *communicator, log);
      record.attempt = directory->attempt();
      stuck.set_attempt(record.attempt);
      record_flight(config, *directory, *communicator, recorder);
      train(config, resume, *directory, *communicator, device, stop, log, record);
    } catch (...) {
      conclude(std::current_exception(), *communicator, log, record);
    }
    stuck.set_attempt(0);
    if (directory) write_exit_record(config.run.output, record);
    code = record.exit_code;
    leave_together(*communicator);
    communicator->record_to(nullptr);
  } catch (const core::Error& error) {
    // Before there is a communicator every rank finds the same.
    if (rank == 0) log.error("run", "{}: {}", core::describe(error.kind()), error.what());
    code = error.exit_code();
  }
  if (code != 0 && environment) environment->mark_failed();
  return code;
}

}  // namespace lockstep::launcher
