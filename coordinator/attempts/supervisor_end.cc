#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/exit_classification.h"
#include "coordinator/attempts/log_reader.h"
#include "coordinator/attempts/supervisor.h"

namespace lockstep::coordinator {

namespace {

constexpr std::int64_t kPublishEvery = kSecond;
constexpr std::size_t kLastWords = 1024;  // bytes

}  // namespace

AttemptStatus Supervisor::status() const {
  AttemptStatus status;
  status.supervisor_pid = getpid();
  bool all_there = true;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Rank& rank = ranks_[i];
    all_there = all_there && (rank.process || rank.elsewhere);
    if (rank.process) {
      status.ranks.push_back({static_cast<int>(i), rank.process->pid(), rank.end_ns == 0});
    }
  }
  status.phase = ladder_.rung() != StopRung::kNone ? AttemptPhase::kStopping
                 : all_there                       ? AttemptPhase::kRunning
                                                   : AttemptPhase::kStarting;
  status.rung = ladder_.rung();
  status.stuck = hang_.stuck;
  status.cleanup = cleanup_;
  status.log_bytes = logs_->written();
  status.log_dropped = logs_->dropped();
  status.start_time_ns = start_ns_;
  return status;
}

// Changes at once, the growth of the logs once a second.
void Supervisor::publish() {
  const std::int64_t time = now();
  const bool grown = logs_->written() != published_bytes_ && time - published_ns_ >= kPublishEvery;
  if (!changed_ && !grown) return;
  const AttemptStatus current = status();
  write_file(directory_, "state.json", to_text(to_json(current)), false);
  published_bytes_ = current.log_bytes;
  published_ns_ = time;
  changed_ = false;
}

// The last lines that a rank wrote to its standard error.
std::string Supervisor::last_words(int rank) const {
  LogQuery query;
  query.ranks = {rank};
  query.out = false;
  query.tail_lines = 5;
  LogReader reader(directory_, spec_.attempt.number, query);
  std::string words;
  while (const auto piece = reader.next(true))
    words += piece->bytes;
  if (words.size() > kLastWords) words.erase(0, words.size() - kLastWords);
  while (!words.empty() && words.back() == '\n')
    words.pop_back();
  return words;
}

ExitInfo Supervisor::exit_info() const {
  // Ranks write the time of the wall clock; should somebody have set that meanwhile, by how much.
  std::int64_t set_by = unix_now_ns() - now();
  if (std::abs(set_by) < kSecond) set_by = 0;
  EndFacts end;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Rank& rank = ranks_[i];
    RankEnd of_rank;
    of_rank.rank = static_cast<int>(i);
    of_rank.host = rank.host;
    of_rank.pid = rank.process ? rank.process->pid() : 0;
    of_rank.end_ns = rank.end_ns;
    of_rank.wait_status = rank.wait_status;
    if (!of_rank.wait_status && rank.process) of_rank.wait_status = rank.process->wait_status();
    of_rank.record = read_exit_record(spec_.output, of_rank.rank, start_ns_ + set_by);
    if (of_rank.record) of_rank.record->time_ns -= set_by;
    if (of_rank.record && of_rank.pid != 0 && of_rank.record->pid != of_rank.pid) {
      of_rank.record.reset();
    }
    of_rank.last_words = last_words(of_rank.rank);
    end.ranks.push_back(std::move(of_rank));
  }
  end.launcher_status = launcher_status_;
  end.launcher_end_ns = launcher_end_ns_;
  end.launcher_last_words = last_words(-1);
  end.out_of_memory = count_memory_kills() > memory_kills_;
  end.stop = ladder_.request();
  end.stop_ns = ladder_.requested_ns();
  end.forced_ns = ladder_.requested() ? ladder_.forced_ns() : 0;
  end.stuck = hang_.stuck;
  end.stuck_rank = hang_.rank;
  return classify(end);
}

bool Supervisor::rank_end_unnoticed() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
    return rank.process && rank.end_ns == 0 && rank.process->ended();
  });
}

void Supervisor::finish() {
  while (rank_end_unnoticed())
    wait_for_events();
  reap();
  if (ladder_.gave_up()) {
    for (const ProcessHandle& process : everything_alive())
      cleanup_ +=
          (cleanup_.empty() ? "cannot be ended: process " : ", ") + describe_process(process);
  }
  session_.reset();
  logs_->finish();
  AttemptStatus ended = status();
  ended.phase = AttemptPhase::kEnded;
  ended.end_time_ns = now();
  ended.exit = exit_info();
  note("ended", fmt::format("\"category\":\"{}\"", to_string(ended.exit.category)));
  // Room was reserved for it at the start. If that was not enough, a disk that is full now has space
  // again some time; until then this process says by its lock that the end is not on record.
  while (!write_reserved_file(directory_, "exit.json", to_text(to_json(ended)))) {
    keep_directory();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
}

}  // namespace lockstep::coordinator
