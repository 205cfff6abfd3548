#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/supervisor.h"

// What is alive of the attempt, and what the stop ladder has done to it.
namespace lockstep::coordinator {

bool Supervisor::has_ranks_elsewhere() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) { return rank.elsewhere; });
}

bool Supervisor::ranks_alive() const {
  for (const Rank& rank : ranks_) {
    if (rank.process && !rank.process->ended()) return true;
  }
  return false;
}

// Below this process, or carrying the tag.
std::vector<ProcessHandle> Supervisor::everything_alive() const {
  std::vector<ProcessHandle> found = descendants_of(getpid());
  for (ProcessHandle& process :
       processes_with_variable(kAttemptTagVariable, attempt_tag(spec_.attempt)))
    found.push_back(std::move(process));
  return found;
}

LadderFacts Supervisor::facts() const {
  LadderFacts facts;
  for (const Rank& rank : ranks_) {
    facts.ranks_seen = facts.ranks_seen || rank.process;
    if (rank.end_ns == 0) continue;
    if (facts.first_rank_end_ns == 0 || rank.end_ns < facts.first_rank_end_ns) {
      facts.first_rank_end_ns = rank.end_ns;
    }
  }
  facts.launcher_alive = !launcher_ended_;
  facts.ranks_alive = ranks_alive();
  if (has_ranks_elsewhere() && facts.launcher_alive) facts.ranks_seen = facts.ranks_alive = true;
  // Only at the end does it matter who else is there.
  facts.anything_alive = facts.launcher_alive || facts.ranks_alive || !everything_alive().empty();
  return facts;
}

void Supervisor::advance() {
  if (now() - looked_for_stop_ns_ > kSecond) read_stop_file();
  reap();
  const StopRung before = ladder_.rung();
  const std::optional<LadderAction> action = ladder_.advance(facts(), now());
  if (ladder_.rung() != before) {
    changed_ = true;
    note("rung", fmt::format("\"rung\":\"{}\"", to_string(ladder_.rung())));
    publish();
  }
  if (action) act(*action);
}

void Supervisor::act(LadderAction action) {
  const auto to_ranks = [&](int number) {
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
      const auto& process = ranks_[i].process;
      if (!process || process->ended() || !process->send(number)) continue;
      note("signal_sent", fmt::format("\"rank\":{},\"signal\":{}", i, number));
    }
  };
  switch (action) {
    case LadderAction::kAskRanks:
      // mpirun passes it on to all ranks; any one of them is enough.
      if (ranks_[0].elsewhere && launcher_process_) launcher_process_->send(SIGUSR1);
      if (ranks_[0].process && ranks_[0].process->send(SIGUSR1)) {
        note("signal_sent", fmt::format("\"rank\":0,\"signal\":{}", SIGUSR1));
      }
      return;
    case LadderAction::kTerminateRanks:
      to_ranks(SIGTERM);
      return to_ranks(SIGCONT);
    case LadderAction::kKillRanks:
      return to_ranks(SIGKILL);
    case LadderAction::kTerminateLauncher:
    case LadderAction::kKillLauncher:
      if (launcher_process_) {
        launcher_process_->send(action == LadderAction::kKillLauncher ? SIGKILL : SIGINT);
      }
      return;
    case LadderAction::kKillEverything:
      for (const ProcessHandle& process : everything_alive()) {
        note("swept", fmt::format("\"pid\":{}", process.pid()));
        process.send(SIGKILL);
      }
      return;
  }
}

}  // namespace lockstep::coordinator
