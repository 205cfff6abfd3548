#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "coordinator/attempts/attempt_host.h"
#include "coordinator/attempts/descriptor.h"
#include "coordinator/attempts/log_writer.h"

namespace lockstep::coordinator {

// Takes what ranks and launcher write out of pipes and into their logs, in a thread of its own: a
// slow disk may hold up the ranks, but never the supervisor.
class LogPump {
 public:
  // Makes DIRECTORY/logs and the pipes. Throws Error(kInternal).
  LogPump(const std::string& directory, int ranks, const LogLimits& limits);
  ~LogPump();
  LogPump(const LogPump&) = delete;
  LogPump& operator=(const LogPump&) = delete;

  // The end to write to, of a rank or (-1) the launcher. Once; an empty one after that.
  Descriptor take_end(int rank, bool err);

  // Somebody removed the folder: from now on lines go into a new one. False if there is none yet.
  bool make_folder_again(const std::string& directory);

  void start();
  // Takes what is still in the pipes, without waiting for those that keep them open, and ends.
  void finish();

  std::int64_t written() const;
  std::int64_t dropped() const;

 private:
  struct Stream {
    Descriptor from;
    Descriptor to;
    std::unique_ptr<LogWriter> writer;
  };
  void add(int rank, bool err, int ranks, const LogLimits& limits);
  void run();
  bool drain(Stream& stream, std::string& buffer);

  Descriptor folder_;
  Descriptor poller_;
  Descriptor wake_;
  std::map<std::pair<int, bool>, Stream> streams_;
  std::thread thread_;
};

}  // namespace lockstep::coordinator
