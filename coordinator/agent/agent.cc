#include "coordinator/agent/agent.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <iterator>

#include "comm/flight_log.h"
#include "core/error.h"
#include "lockstep/v1/agent_service.grpc.pb.h"

namespace lockstep::coordinator::agent {

namespace {

namespace v1 = lockstep::v1;
using std::chrono::milliseconds;

constexpr milliseconds kDeadline{5000};
constexpr milliseconds kLastDeadline{1000};
constexpr std::int64_t kLongestPause = 5000;  // ms
constexpr std::int64_t kShortestInterval = 50;
constexpr std::int64_t kLongestInterval = 60'000;

std::string read_text(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool is_this_machine(const std::string& address) {
  return address.starts_with("unix:") || address.starts_with("127.") ||
         address.starts_with("localhost:") || address.starts_with("[::1]:");
}

std::shared_ptr<grpc::ChannelCredentials> credentials(const AgentOptions& options) {
  if (options.ca_file.empty() && is_this_machine(options.address)) {
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions tls;
  if (!options.ca_file.empty()) tls.pem_root_certs = read_text(options.ca_file);
  if (!options.certificate_file.empty()) {
    tls.pem_cert_chain = read_text(options.certificate_file);
    tls.pem_private_key = read_text(options.key_file);
  }
  return grpc::SslCredentials(tls);
}

std::shared_ptr<grpc::Channel> open_channel(const AgentOptions& options) {
  grpc::ChannelArguments arguments;
  // A coordinator that comes back is to be noticed soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(options.address, credentials(options), arguments);
}

std::int64_t to_milliseconds(const google::protobuf::Duration& duration) {
  return duration.seconds() * 1000 + duration.nanos() / 1'000'000;
}

// Bytes that this process has handed to files so far.
std::int64_t bytes_written() {
  std::ifstream in("/proc/self/io");
  std::string name;
  for (std::int64_t value = 0; in >> name >> value;) {
    if (name == "wchar:") return value;
  }
  return 0;
}

std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

class Agent::Connection {
 public:
  explicit Connection(const AgentOptions& options)
      : options_(options), stub_(v1::AgentService::NewStub(open_channel(options))) {}

  void name_attempt(v1::AttemptRef& attempt) const {
    attempt.set_run(options_.run);
    attempt.set_attempt(options_.attempt);
    attempt.set_fence(options_.fence);
  }

  grpc::Status call(const v1::RegisterRequest& request, v1::RegisterResponse& response) {
    return in_context(kDeadline, [&](grpc::ClientContext& context) {
      return stub_->Register(&context, request, &response);
    });
  }
  grpc::Status call(const v1::HeartbeatRequest& request, v1::HeartbeatResponse& response,
                    milliseconds deadline) {
    return in_context(deadline, [&](grpc::ClientContext& context) {
      return stub_->Heartbeat(&context, request, &response);
    });
  }
  // From another thread: the call that is being made fails at once.
  void cancel() {
    const std::lock_guard lock(mutex_);
    if (current_ != nullptr) current_->TryCancel();
  }

 private:
  grpc::Status in_context(milliseconds deadline, auto call) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    if (!options_.secret.empty()) {
      context.AddMetadata("authorization", "Bearer " + options_.secret);
    }
    set_current(&context);
    const grpc::Status status = call(context);
    set_current(nullptr);
    return status;
  }
  void set_current(grpc::ClientContext* context) {
    const std::lock_guard lock(mutex_);
    current_ = context;
  }

  const AgentOptions& options_;
  std::unique_ptr<v1::AgentService::Stub> stub_;
  std::mutex mutex_;
  grpc::ClientContext* current_ = nullptr;  // of the call that is being made
};

Agent::Agent(AgentOptions options, RunFacts facts, runtime::RunMonitor& monitor, core::Logger& log)
    : options_(std::move(options)),
      facts_(std::move(facts)),
      monitor_(monitor),
      log_(log),
      connection_(std::make_unique<Connection>(options_)) {
  monitor_.resumed(facts_.resumed_step);
  thread_ = std::thread([this] { run(); });
}

Agent::~Agent() {
  {
    // Cancelled is the call that is being made, never the last one, which is made once `ending_` is set.
    const std::lock_guard lock(mutex_);
    connection_->cancel();
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

// False when the agent is to end.
bool Agent::sleep_for_ms(std::int64_t time) {
  std::unique_lock lock(mutex_);
  return !wake_.wait_for(lock, milliseconds(time), [this] { return ending_; });
}

bool Agent::ending() {
  const std::lock_guard lock(mutex_);
  return ending_;
}

void Agent::run() {
  std::int64_t pause = interval_ms_;
  do {
    if (speak()) {
      pause = interval_ms_;
    } else {
      pause = std::min(pause * 2, std::max(kLongestPause, interval_ms_));
    }
  } while (sleep_for_ms(pause));
  if (registered_) send_heartbeat();
}

bool Agent::speak() {
  if (!registered_ && !register_attempt()) return false;
  return send_heartbeat();
}

bool Agent::register_attempt() {
  v1::RegisterRequest request;
  connection_->name_attempt(*request.mutable_attempt());
  request.set_world_size(facts_.world_size);
  request.set_host(host_name());
  request.set_pid(getpid());
  request.set_total_steps(facts_.total_steps);
  request.set_resumed_step(facts_.resumed_step);
  v1::RegisterResponse response;
  const grpc::Status status = connection_->call(request, response);
  if (!status.ok()) {
    notice_failure(status.error_code(), status.error_message());
    return false;
  }
  registered_ = true;
  const std::int64_t asked = to_milliseconds(response.heartbeat_interval());
  if (asked > 0) interval_ms_ = std::clamp(asked, kShortestInterval, kLongestInterval);
  return true;
}

// A large checkpoint takes long and is no step: what is written to disk meanwhile shows that the
// rank gets on.
std::int64_t Agent::activity(const runtime::RunSnapshot& snapshot) {
  const std::int64_t written = bytes_written();
  if (snapshot.phase == runtime::RunPhase::kSaving && written > written_bytes_) ++extra_activity_;
  written_bytes_ = written;
  return snapshot.activity + extra_activity_;
}

bool Agent::send_heartbeat() {
  const runtime::RunSnapshot snapshot = monitor_.snapshot();
  v1::HeartbeatRequest request;
  connection_->name_attempt(*request.mutable_attempt());
  request.set_step(snapshot.step);
  request.set_activity(activity(snapshot));
  request.set_loss(snapshot.loss);
  request.set_tokens_per_second(snapshot.tokens_per_second);
  request.set_step_seconds(snapshot.step_seconds);
  request.set_checkpoint_step(snapshot.checkpoint_step);
  request.set_acked_control_id(monitor_.taken_request());
  request.set_failed_control_id(monitor_.failed_request());
  const bool last = ending();
  request.set_phase(runtime::to_string(last ? runtime::RunPhase::kEnding : snapshot.phase));
  try {
    request.set_collective_sequence(comm::read_flight_log(facts_.flight_file).last_entered());
  } catch (const core::Error&) {
    // Without it the coordinator knows a little less.
  }
  v1::HeartbeatResponse response;
  const grpc::Status status =
      connection_->call(request, response, last ? kLastDeadline : kDeadline);
  if (!status.ok()) {
    notice_failure(status.error_code(), status.error_message());
    return false;
  }
  if (told_of_failure_) log_.info("agent", "the coordinator at {} is back", options_.address);
  told_of_failure_ = false;
  const std::int64_t asked = to_milliseconds(response.heartbeat_interval());
  if (asked > 0) interval_ms_ = std::clamp(asked, kShortestInterval, kLongestInterval);
  obey(response.control(), response.control_id());
  return true;
}

void Agent::obey(int control, std::int64_t number) {
  if (control == v1::CONTROL_CHECKPOINT) monitor_.request_checkpoint(number);
  if (control == v1::CONTROL_CHECKPOINT_AND_EXIT) monitor_.request_stop(number);
}

void Agent::notice_failure(int code, const std::string& what) {
  // Another attempt runs, or this one counts as ended: nobody may go on writing for it.
  if (code == grpc::StatusCode::FAILED_PRECONDITION && !disowned_) {
    disowned_ = true;
    monitor_.request_stop(monitor_.taken_request() + 1);
    log_.warning("agent", "the coordinator at {} disowns this attempt: {}; training stops",
                 options_.address, what);
  } else if (!told_of_failure_ && !ending()) {
    told_of_failure_ = true;
    log_.warning("agent", "the coordinator at {} does not answer: {}; training goes on",
                 options_.address, what);
  }
}

}  // namespace lockstep::coordinator::agent
