#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "core/log.h"
#include "runtime/config/config.h"

namespace lockstep::runtime {

enum class ResumeMode { kNever, kAuto, kPath };

// What a start is to do with an OUTPUT directory.
struct ResumeChoice {
  ResumeMode mode = ResumeMode::kNever;
  std::string path;  // kPath: a checkpoint directory
};

// Holds OUTPUT for one attempt: every rank a shared lock on OUTPUT/lock, given back when the
// process ends, however it ends.
//
// The start takes the lock exclusively first (rank 0), waiting up to 30 s for an earlier attempt to
// be gone, then writes its host, pid and a token that all ranks must read: an OUTPUT that is not
// shared between hosts is Error(kConfig), like a lock that stays taken.
class RunDirectory {
 public:
  // Makes the directories, takes the lock, and refuses (Error(kConfig), naming the ways out) an
  // OUTPUT that already holds a run when mode is kNever. Opens this rank's log file. Collective.
  // stop: no longer 0 when this rank is asked to stop: then it waits for no lock (kStopped).
  RunDirectory(const Config& config, const ResumeChoice& resume, comm::Communicator& communicator,
               core::Logger& log, const std::atomic<int>* stop = nullptr);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  // How many times this OUTPUT has been started, this time included; the same on every rank.
  std::int64_t attempt() const { return attempt_; }

  // Rank 0: whether the attempt before this one ended with exit code 4, as its exit record says.
  bool follows_divergence() const { return follows_divergence_; }

  // Rank 0 writes OUTPUT/config.yaml, the resolved configuration, by rename.
  void write_config(const Config& config) const;

 private:
  void lock_exclusively(core::Logger& log, const std::atomic<int>* stop);
  void share_lock(const std::string& token);
  std::string identity() const;

  std::string output_;
  std::int64_t attempt_ = 1;
  bool follows_divergence_ = false;
  int lock_ = -1;
  bool writes_ = false;
};

}  // namespace lockstep::runtime
