#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "coordinator/attempts/attempt_host.h"
#include "coordinator/attempts/descriptor.h"

// The files of an attempt, STATE_DIR/runs/RUN/attempts/NUMBER/:
//
//   launch.json      what to start; written by the coordinator before it starts the supervisor
//   lock             flock held as long as the supervisor lives, from before it is forked
//   supervisor.json  who it is: boot id, pid, start time
//   control          its Unix socket (control_channel.h)
//   stop.json        a stop request that could not be handed over by the socket
//   state.json       AttemptStatus while it runs; replaced, not synced
//   session          where mpirun keeps its own files, a directory in TMPDIR
//   spool.jsonl      what happened when, for people
//   logs/            log_writer.h
//   stacks.txt       the ranks of a hang, before they were ended
//   exit.json        AttemptStatus at the end; synced. From then on the attempt has ended.
//
// Every JSON file carries "version": 1. All of them may have been damaged or forged: reading gives
// nothing for what does not parse, and no pid in them is ever signalled.
namespace lockstep::coordinator {

inline constexpr int kAttemptFilesVersion = 1;
// The variable that marks every process of an attempt: attempt_tag() of it.
inline constexpr const char* kAttemptTagVariable = "LOCKSTEP_ATTEMPT";
std::string attempt_tag(const AttemptRef& attempt);  // "RUN.NUMBER.FENCE"

// "STATE_DIR/runs/RUN/attempts/NUMBER". Throws Error(kInternal) if the run is not an id that the
// server makes ([a-z0-9]{1,64}): nothing else ever reaches a path.
std::string attempt_directory(const std::string& state_directory, const AttemptRef& attempt);

// Opens a regular file, or a directory, below the directory `root`, without following any symbolic
// link; flags as for open(2). An empty descriptor if there is none.
Descriptor open_beneath(int root, const std::string& path, int flags);

// A whole regular file of at most `limit` bytes; nothing if it is not there, longer, or no file.
std::optional<std::string> read_small_file(const std::string& directory, const std::string& name,
                                           std::size_t limit = 1 << 20);

nlohmann::json to_json(const LaunchSpec& spec);
nlohmann::json to_json(const StopRequest& request, std::int64_t fence);
nlohmann::json to_json(const AttemptStatus& status);

// One line; bytes that are not UTF-8 are replaced.
std::string to_text(const nlohmann::json& value);

// These throw Error(kData) naming what is wrong.
LaunchSpec parse_launch_spec(const std::string& text);
struct StopMessage {
  StopRequest request;
  std::int64_t fence = 0;
};
StopMessage parse_stop_message(const std::string& text);
AttemptStatus parse_attempt_status(const std::string& text);

struct SupervisorIdentity {
  std::string boot_id;
  std::int64_t pid = 0;
  std::uint64_t start_ticks = 0;
};
std::string to_text(const SupervisorIdentity& identity);
std::optional<SupervisorIdentity> read_supervisor_identity(const std::string& directory);

// The status in exit.json, or state.json; nothing if there is none that can be read.
std::optional<AttemptStatus> read_status(const std::string& directory, const std::string& name);
// Replaces a file; with `synced` it is durable when this returns. False if that failed.
bool write_file(const std::string& directory, const std::string& name, const std::string& text,
                bool synced);

// Occupies room for a file that must be written whatever happens to the disk; then writes it into
// that room, synced, without needing more. A longer text is written as write_file does.
bool reserve_file(const std::string& directory, const std::string& name, std::size_t bytes);
bool write_reserved_file(const std::string& directory, const std::string& name,
                         const std::string& text);

std::int64_t unix_now_ns();

}  // namespace lockstep::coordinator
