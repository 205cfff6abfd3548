#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::comm {

// What this program knows of Open MPI's mpirun: how it is asked, in words that Open MPI 4.1 (ORTE)
// and 5.0 (PRRTE) both understand, and where it fails. Variables of the other version are ignored.

// What mpirun is to start on this machine.
struct MpirunCall {
  int ranks = 1;
  std::vector<std::string> program;  // and its arguments
  // "host:slots" each; empty: this machine, which is all that `train --ranks` asks for.
  std::vector<std::string> hosts{};
  std::vector<std::string> exported{};  // names of variables that ranks on other hosts get too
};

// Its command line. mpirun never counts cores nor binds ranks to them: the caller has decided how
// many ranks there are, and mpirun may see other cores than the process may use. root is allowed,
// as containers need.
std::vector<std::string> mpirun_command(const MpirunCall& call);

// Variables that mpirun and its ranks need, beside what people have set. `crowded`: there are more
// ranks than cores, so that one that waits gives its core away. `session`: MpirunSession::path(),
// or empty. `quiet`: mpirun does not say itself that ranks have ended.
std::vector<std::pair<std::string, std::string>> mpirun_environment(const std::string& session,
                                                                    bool crowded, bool quiet);

// Signals that come to every process of a job at once, from a batch system or a terminal that goes away.
// They make mpirun kill its ranks after 0.25 s (5.0) or 1 s (4.1), which is no time for a checkpoint,
// or leave them as orphans: it is started with them blocked, in a session of its own. It ends with its
// ranks; SIGINT makes it end them, and clean up.
// The signals of timers as well, which it would pass on to ranks that have no handler for them yet.
const std::vector<int>& signals_kept_from_mpirun();

// Raises this process's limit of open files, which mpirun inherits, if it is too low for this many
// ranks: with fewer mpirun stands still instead of failing. Throws Error(kConfig) if the system does not
// allow as many as it needs.
void allow_mpirun_descriptors(int ranks);

// Ranks leave together, and mpirun ends the others when one dies; but one that dies in the middle
// of MPI_Init can leave mpirun, and with it the others, waiting for ever (PMIx 4.2 gives up on the
// connection with a lock held). After this long since the first rank ended it is stuck.
constexpr std::chrono::seconds kMpirunPatience{10};

// A directory for what an mpirun keeps in files, in TMPDIR; taken away with this object. The one of
// a process that was killed is taken away by the next one that makes its own.
class MpirunSession {
 public:
  // Throws Error(kConfig) if there can be no directory in TMPDIR.
  MpirunSession();
  ~MpirunSession();
  MpirunSession(const MpirunSession&) = delete;
  MpirunSession& operator=(const MpirunSession&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int lock_ = -1;  // on the directory, as long as the process lives
};

// Takes away the directory of a session whose process was killed. Whatever else lies under that path,
// and a directory that is in use, is left alone.
void remove_session(const std::string& path);

}  // namespace lockstep::comm
