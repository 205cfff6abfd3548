#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/coordinator/engine/invariants.h"
#include "tests/support/run_command.h"
#include "tests/support/training_test.h"

namespace lockstep::testing {

using Arguments = std::vector<std::string>;

// A coordinator of the real binary with a state directory and a socket of its own, and the commands
// that speak with it. config.yaml of TrainingTest is what is submitted. After each test the
// coordinator is killed and all invariants are checked; then every run is brought to its end, the
// store passes `admin check`, no process of an attempt is left, and they are checked again.
class JobControlTest : public TrainingTest {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Starts the coordinator; commands wait until it answers.
  void start(const Arguments& more = {});
  void kill_coordinator();  // SIGKILL, and waits for its end
  pid_t coordinator_pid() const { return coordinator_->pid(); }
  bool coordinator_ended();               // by itself, or never started
  int starts() const { return starts_; }  // coordinators so far

  // `lockstep ARGUMENTS...`, which tries to reach the coordinator for a minute.
  CommandResult job(Arguments arguments, int timeout_seconds = 120) const;
  // The same beside the test.
  std::unique_ptr<Command> begin_job(Arguments arguments, int timeout_seconds = 240) const;
  // The same, while every coordinator that dies is followed by one with these arguments.
  CommandResult job_under_crashes(const Arguments& arguments, const Arguments& coordinator);
  // What it says with -o json; throws unless it ends with 0.
  nlohmann::json json(Arguments arguments) const;

  // Submits config.yaml with two ranks and gives the run's id.
  std::string submit(const std::string& output, const Arguments& more = {});
  Arguments submit_arguments(const std::string& output, const Arguments& more) const;
  // The run that `lockstep submit ARGUMENTS...` told of; throws unless it ended with 0. From now on
  // the request id among the arguments stands for that run.
  std::string submitted(const Arguments& arguments, const CommandResult& result);
  nlohmann::json show(const std::string& run) const;
  std::string state(const std::string& run) const { return show(run)["state"]; }
  // Throws when the run is in another state after the time.
  void wait_for_state(const std::string& run, const std::string& state, int seconds = 60) const;

  // As TrainingTest's, on a machine that may be busy with other things: throws after two minutes.
  void wait_for_step(const std::string& output, int step) const;

  // Processes of attempts of this run, by the tag in their environment.
  std::vector<pid_t> processes_of(const std::string& run) const;
  // The process of a rank of the run; throws if there is none.
  pid_t rank_of(const std::string& run, int rank) const;

  // The test took the store away.
  void store_lost() { invariants_.store_lost(); }
  // The run was deleted, or is about to be.
  void deleted(const std::string& run) { invariants_.deleted(run); }
  // The store has damage that the test did itself; of this run nothing is expected any more.
  void damaged(const std::string& run) { invariants_.damaged(run); }

  // How often a loop goes: the environment variable if it is set, else `quick`.
  static int loops(const char* variable, int quick);

 private:
  void end_all_runs() const;
  void end_coordinator();  // SIGTERM
  coordinator::testing::Invariants invariants_;
  std::unique_ptr<Command> coordinator_;
  int starts_ = 0;
};

// Checks the invariants on the store of a coordinator that is not there just now.
void check_invariants(coordinator::testing::Invariants& invariants,
                      const std::filesystem::path& state_directory);

// A random one, as --request-id takes it.
std::string new_request_id();

// Whether a child of this process has ended; leaves its status to be waited for.
bool has_ended(pid_t child);

}  // namespace lockstep::testing
