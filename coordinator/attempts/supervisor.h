#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/mpi/mpirun.h"
#include "coordinator/attempts/attempt_host.h"
#include "coordinator/attempts/control_channel.h"
#include "coordinator/attempts/descriptor.h"
#include "coordinator/attempts/hang_examination.h"
#include "coordinator/attempts/log_pump.h"
#include "coordinator/attempts/process.h"
#include "coordinator/attempts/stop_ladder.h"

namespace lockstep::coordinator {

// inherited: the descriptor of DIRECTORY/lock that the coordinator locked before it started this
// process; -1: none. Keeps the lock from every child. Throws Error(kInternal) if another holds it.
Descriptor take_supervisor_lock(const std::string& directory, int inherited);

// `lockstep supervise DIRECTORY`: looks after one attempt from its start to the proof that nothing
// of it is left, whether a coordinator runs or not. attempt_files.h has what it leaves behind.
//
// While it lives it must hold the flock on DIRECTORY/lock: take_supervisor_lock().
//
// It is the subreaper of everything below it, so that no process of the attempt can leave its tree;
// and mpirun is asked by the kernel to end with it.
class Supervisor {
 public:
  // directory: holds launch.json. self: the path of this program. Throws Error(kData) if the file
  // cannot be read, Error(kInternal) for what the system refuses.
  Supervisor(std::string directory, std::string self);
  ~Supervisor();
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Returns when exit.json is written.
  void run();

 private:
  struct Rank {
    std::string host;
    bool elsewhere = false;  // on another machine: mpirun's own daemon there looks after it
    std::optional<ProcessHandle> process;
    std::int64_t end_ns = 0;  // 0: not seen to end
    std::optional<int> wait_status;
  };
  struct Connection {
    Descriptor socket;
    std::int64_t since_ns;
  };

  std::int64_t now() const;
  bool has_ranks_elsewhere() const;
  LadderFacts facts() const;
  void prepare_signals();
  void identify();
  void start_launcher();
  void watch(int fd);
  void wait_for_events();
  void handle_signals();
  void reap();
  void note_rank_ends(int fd);
  void handle_connection(Connection& connection);
  void add_rank(const Descriptor& connection, const ControlMessage& message, int rank);
  std::string stop_on_request(const std::string& text);
  void read_stop_file();
  bool rank_end_unnoticed() const;
  void begin_stop(const StopRequest& request);
  void advance();
  void act(LadderAction action);
  std::vector<ProcessHandle> everything_alive() const;
  bool ranks_alive() const;
  AttemptStatus status() const;
  void publish();
  void keep_directory();
  void make_directory_again();
  void finish();
  ExitInfo exit_info() const;
  std::string last_words(int rank) const;
  void note(const std::string& kind, const std::string& members = "");

  const std::string directory_;
  const std::string self_;
  const LaunchSpec spec_;
  Descriptor poller_;
  Descriptor signals_;
  Descriptor spool_;
  Descriptor lock_;  // a new one, should somebody have removed that of the coordinator
  std::uint64_t lock_inode_ = 0;
  std::int64_t looked_at_directory_ns_ = 0;
  std::optional<ControlListener> listener_;
  std::optional<LogPump> logs_;
  std::list<Connection> connections_;

  // Unix time when this began, and the steady clock then: what the time is, should somebody set the
  // clock of the machine.
  const std::int64_t began_ns_;
  const std::chrono::steady_clock::time_point began_;
  std::vector<Rank> ranks_;  // by number
  std::optional<comm::MpirunSession> session_;
  pid_t launcher_ = 0;
  std::optional<ProcessHandle> launcher_process_;
  bool launcher_ended_ = false;
  int launcher_status_ = 0;
  std::int64_t launcher_end_ns_ = 0;
  std::int64_t start_ns_ = 0;
  std::int64_t memory_kills_ = 0;  // of the machine, when the attempt began

  StopLadder ladder_;
  HangFinding hang_;
  std::string cleanup_;
  bool changed_ = true;  // what state.json says
  std::int64_t published_ns_ = 0;
  std::int64_t published_bytes_ = 0;
  std::int64_t looked_for_stop_ns_ = 0;
};

}  // namespace lockstep::coordinator
