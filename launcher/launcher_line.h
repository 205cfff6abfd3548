#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace lockstep::launcher {

// How `train --ranks` and the ranks that it started speak: datagrams on a Unix socket of this
// machine, without a file. Unlike a signal, a request that is made before a rank listens waits for
// it, and mpirun is not in between.
//
//   rank -> launcher   "rank N" first; "progress TEXT": rank 0's progress bar, empty: take it away
//   launcher -> rank   "stop": save and stop at the next step boundary

// The rank's end.
class LauncherLine {
 public:
  // Connects to the launcher that started this rank; without one nothing is said or heard. Throws
  // Error(kCommunication) if it is not to be reached.
  LauncherLine();
  ~LauncherLine();
  LauncherLine(const LauncherLine&) = delete;
  LauncherLine& operator=(const LauncherLine&) = delete;

  bool connected() const { return socket_ >= 0; }
  int descriptor() const { return socket_; }
  // Whether the launcher shows rank 0's progress.
  bool shows_progress() const;
  // What cannot be sent at once is left out.
  void show_progress(const std::string& text) const;
  // What has come, without waiting: true if it is a request to stop. `open` becomes false when
  // nothing more can come.
  bool take_stop(bool& open) const;

 private:
  int socket_ = -1;
};

// The launcher's end.
class RankLines {
 public:
  // A rank that has been there.
  struct Rank {
    int socket = -1;  // -1: the rank has ended
    pid_t pid = 0;
    int number = -1;  // -1: it has not said
  };

  // Throws Error(kInternal) if there can be no socket.
  RankLines();
  ~RankLines();
  RankLines(const RankLines&) = delete;
  RankLines& operator=(const RankLines&) = delete;

  // For the environment of the ranks: their LauncherLine finds this one. progress: rank 0 is to
  // send its progress bar.
  void put_into_environment(bool progress) const;

  // Waits until something comes, at most this long, or until `other` can be read; hears all of it.
  // Returns the newest text of the progress bar, if one came.
  std::optional<std::string> listen(const std::vector<int>& others, int timeout_ms);

  // All ranks, those to come included.
  void ask_to_stop();

  const std::vector<Rank>& ranks() const { return ranks_; }

 private:
  void welcome();
  void hear(Rank& rank, std::optional<std::string>& progress);

  int listener_ = -1;
  std::string name_;
  bool stop_ = false;
  std::vector<Rank> ranks_;
};

}  // namespace lockstep::launcher
