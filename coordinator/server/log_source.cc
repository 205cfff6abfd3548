#include <algorithm>
#include <filesystem>

#include "coordinator/attempts/attempt_files.h"
#include "coordinator/attempts/log_reader.h"
#include "coordinator/server/conversions.h"
#include "coordinator/server/run_sources.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr int kMaxRanks = 4096;

LogQuery query_of(const v1::ReadLogsRequest& request) {
  LogQuery query;
  if (request.ranks_size() > kMaxRanks) {
    throw invalid_field("ranks", "expected at most " + std::to_string(kMaxRanks));
  }
  if (request.tail_lines() < 0) throw invalid_field("tail_lines", "expected 0 (all) or more");
  if (request.attempt() < 0) throw invalid_field("attempt", "expected 0 (the newest) or more");
  query.ranks.assign(request.ranks().begin(), request.ranks().end());
  query.out = request.stream() != v1::ReadLogsRequest::STDERR;
  query.err = request.stream() != v1::ReadLogsRequest::STDOUT;
  query.since_ns = request.has_since_time() ? timestamp_ns(request.since_time()) : 0;
  query.tail_lines = request.tail_lines();
  return query;
}

// The logs of one attempt, or, following, of this one and those after it. What was read of an
// attempt counts as all of it only if the attempt was seen to have ended before the reading.
class LogSource final : public MessageSource<v1::LogChunk> {
 public:
  LogSource(ServerState& state, const v1::ReadLogsRequest& request)
      : state_(state),
        run_(state.engine.find(request.name())->run.id),
        query_(query_of(request)),
        cursor_(request.after_cursor()),
        follow_(request.follow()),
        only_(request.attempt()) {
    number_ = only_;
    if (!cursor_.empty()) number_ = attempt_of_cursor();
    const RunPtr record = state.engine.find(run_);
    if (number_ > static_cast<int>(record->attempts.size())) {
      throw invalid_field("attempt", "the run has had " + std::to_string(record->attempts.size()) +
                                         " attempts, found " + std::to_string(number_));
    }
    if (number_ == 0) number_ = static_cast<int>(record->attempts.size());
    open_reader(*record);
  }

  Next next(v1::LogChunk& message) override {
    looked_ns_ = steady_ns();
    while (true) {
      const RunPtr record = state_.engine.find(run_);
      const bool ended = attempt_ended(*record);
      if (reader_ != nullptr) {
        if (std::optional<LogPiece> piece = reader_->next(ended)) {
          fill(*piece, message);
          return Next::kMessage;
        }
      }
      if (ended && next_attempt(*record)) continue;
      const bool over = !follow_ || (ended && only_ != 0) || is_terminal(record->run.state);
      if (!over || (follow_ && !ended)) return Next::kNothingYet;
      message.set_attempt(number_);
      message.set_end_of_stream(true);
      if (reader_ != nullptr) message.set_cursor(reader_->cursor());
      *message.mutable_run() = to_proto(*record, Texts::kWithout);
      return Next::kLastMessage;
    }
  }

  bool may_have_more(const CallMoment& moment) override {
    return moment.now_ns - looked_ns_ >= kFilePollNs;
  }

 private:
  int attempt_of_cursor() const {
    try {
      return LogReader::attempt_of(cursor_);
    } catch (const core::Error& error) {
      throw invalid_field("after_cursor", error.what());
    }
  }

  // A run that has had no attempt yet has no log; it counts as ended so that the first can follow.
  bool attempt_ended(const RunRecord& record) const {
    return number_ == 0 ||
           record.attempts[static_cast<std::size_t>(number_ - 1)].state == AttemptState::kEnded;
  }

  bool next_attempt(const RunRecord& record) {
    if (only_ != 0 || number_ >= static_cast<int>(record.attempts.size())) return false;
    if (!follow_ && number_ != 0) return false;
    ++number_;
    query_.tail_lines = 0;
    cursor_.clear();
    open_reader(record);
    return true;
  }

  void open_reader(const RunRecord& record) {
    if (number_ == 0) return;
    const Attempt& attempt = record.attempts[static_cast<std::size_t>(number_ - 1)];
    const AttemptRef ref = {run_, attempt.number, attempt.fence};
    const std::string directory = attempt_directory(state_.config.state_directory.string(), ref);
    reader_.reset();
    if (attempt.state == AttemptState::kEnded && !std::filesystem::exists(directory)) {
      if (only_ == 0) return;
      throw EngineError(
          ErrorCode::kNotFound, "LOGS_GONE",
          "the files of attempt " + std::to_string(number_) + " are not kept any more (retention)");
    }
    try {
      reader_ = std::make_unique<LogReader>(directory, number_, query_, cursor_);
    } catch (const core::Error& error) {
      if (error.kind() != core::ErrorKind::kConfig) throw;
      throw invalid_field("after_cursor", error.what());
    }
  }

  void fill(LogPiece& piece, v1::LogChunk& message) {
    state_.metrics.count_log_bytes(static_cast<std::int64_t>(piece.bytes.size()), piece.dropped);
    message.set_attempt(number_);
    message.set_rank(piece.rank);
    message.set_stream(piece.err ? v1::ReadLogsRequest::STDERR : v1::ReadLogsRequest::STDOUT);
    if (piece.time_ns != 0) *message.mutable_time() = timestamp_message(piece.time_ns);
    message.set_data(std::move(piece.bytes));
    message.set_cursor(piece.cursor);
    message.set_dropped_bytes(piece.dropped);
    message.set_no_space(piece.no_space);
  }

  ServerState& state_;
  const std::string run_;
  LogQuery query_;
  std::string cursor_;
  const bool follow_;
  const int only_;  // 0: not one attempt alone
  int number_ = 0;  // of the attempt being read; 0: there has been none
  std::unique_ptr<LogReader> reader_;
  std::int64_t looked_ns_ = 0;
};

}  // namespace

std::unique_ptr<MessageSource<v1::LogChunk>> make_log_source(ServerState& state,
                                                             const v1::ReadLogsRequest& request) {
  return std::make_unique<LogSource>(state, request);
}

}  // namespace lockstep::coordinator
