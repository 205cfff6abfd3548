#include "launcher/training_run.h"

#include <fmt/format.h>
#include <exception>
#include <optional>

#include "comm/make_communicator.h"
#include "comm/mpi/mpi_environment.h"
#include "core/log.h"
#include "core/memory.h"
#include "launcher/run_description.h"
#include "runtime/agree.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/config/load_config.h"
#include "runtime/run_directory.h"
#include "runtime/trainer.h"

namespace lockstep::launcher {

namespace {

runtime::ResumeChoice parse_resume(const std::string& text) {
  if (text == "never") return {runtime::ResumeMode::kNever, ""};
  if (text == "auto") return {runtime::ResumeMode::kAuto, ""};
  return {runtime::ResumeMode::kPath, text};
}

// The checkpoint to continue from; empty: start at step 1. The same on every rank.
std::string choose_checkpoint(const runtime::Config& config, const runtime::ResumeChoice& resume,
                              comm::Communicator& communicator, core::Logger& log) {
  if (resume.mode == runtime::ResumeMode::kNever) return "";
  std::string chosen = resume.path;
  runtime::agree(communicator, "choice of checkpoint", [&] {
    if (communicator.rank() != 0) return;
    if (resume.mode == runtime::ResumeMode::kPath) {
      runtime::verify_checkpoint(runtime::read_manifest(chosen));
      return;
    }
    const auto found = runtime::newest_whole_checkpoint(config.run.output, log);
    if (found) chosen = found->directory;
  });
  return communicator.all_gather_bytes(chosen, "chosen checkpoint").front();
}

void train(const runtime::Config& config, const runtime::ResumeChoice& resume,
           comm::Communicator& communicator, core::MemoryTracker& memory, core::Logger& log) {
  const runtime::RunDirectory directory(config, resume, communicator, log);
  const std::string checkpoint = choose_checkpoint(config, resume, communicator, log);
  const int threads = threads_of_rank(config, communicator.world_size());
  runtime::Trainer trainer(config, threads, communicator, memory, log);
  const std::string run_line = run_line_fields(config, communicator, threads);
  if (checkpoint.empty()) {
    trainer.start(run_line);
  } else {
    trainer.resume(checkpoint, run_line);
  }
  directory.write_config(config);
  log.info("run", "{}", run_description(config, communicator, threads, trainer.table()));
  trainer.run();
}

// Tells an error where it belongs and lets the peers know. Returns the exit code.
int conclude(const std::exception_ptr& failure, comm::Communicator& communicator,
             core::Logger& log) {
  try {
    std::rethrow_exception(failure);
  } catch (const runtime::AgreedError& error) {
    if (log.rank() == 0) log.error("run", "{}: {}", core::describe(error.kind()), error.what());
    return error.exit_code();
  } catch (const core::Error& error) {
    log.error("run", "{}: {}", core::describe(error.kind()), error.what());
    communicator.abort(error.kind(), error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    log.error("run", "out of memory");
    communicator.abort(core::ErrorKind::kOutOfMemory, "out of host memory");
    return static_cast<int>(core::ErrorKind::kOutOfMemory);
  } catch (const std::exception& error) {
    log.error("run", "internal error: {}", error.what());
    communicator.abort(core::ErrorKind::kInternal, error.what());
    return static_cast<int>(core::ErrorKind::kInternal);
  }
}

// Ranks leave together: mpirun kills the others about a second after the first non-zero exit.
void leave_together(comm::Communicator& communicator) noexcept {
  try {
    communicator.barrier("end of the run");
  } catch (const std::exception&) {
    // A peer is gone already; what it failed of has been told.
  }
}

}  // namespace

void check_training_request(const TrainRequest& request, int ranks) {
  runtime::validate_for_world(runtime::load_config(request.config_file, request.overrides), ranks);
}

int run_training(const TrainRequest& request) {
  std::optional<comm::MpiEnvironment> environment;
  if (comm::started_by_mpi_launcher()) environment.emplace();
  const int rank = environment ? environment->rank() : 0;
  const int world_size = environment ? environment->world_size() : 1;
  core::Logger log(rank, world_size);
  int code = 0;
  try {
    const runtime::Config config = runtime::load_config(request.config_file, request.overrides);
    runtime::validate_for_world(config, world_size);
    const auto timeout = std::chrono::milliseconds(
        static_cast<std::int64_t>(config.parallel.timeout_seconds * 1000.0));
    const auto communicator = comm::make_communicator(
        comm_name(config.backend.comm), environment ? &*environment : nullptr, timeout);
    core::MemoryTracker memory;
    try {
      train(config, parse_resume(request.resume), *communicator, memory, log);
    } catch (...) {
      code = conclude(std::current_exception(), *communicator, log);
    }
    leave_together(*communicator);
  } catch (const core::Error& error) {
    // Before there is a communicator every rank finds the same.
    if (rank == 0) log.error("run", "{}: {}", core::describe(error.kind()), error.what());
    code = error.exit_code();
  }
  if (code != 0 && environment) environment->mark_failed();
  return code;
}

}  // namespace lockstep::launcher
