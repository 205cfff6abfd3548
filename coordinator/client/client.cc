#include "coordinator/client/client.h"

#include <fmt/format.h>
#include <grpc/support/log.h>
#include <grpcpp/grpcpp.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "lockstep/v1/admin_service.grpc.pb.h"
#include "lockstep/v1/cluster_service.grpc.pb.h"
#include "lockstep/v1/run_service.grpc.pb.h"

namespace lockstep::coordinator {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kUnaryDeadline{30'000};
constexpr milliseconds kSlowDeadline{600'000};  // hashes of checkpoints, copies of the store
constexpr milliseconds kFirstBackoff{100};
constexpr milliseconds kLongestBackoff{2'000};
constexpr milliseconds kNoTime{0};

std::string read_pem(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream || text.str().empty()) {
    throw core::Error(core::ErrorKind::kConfig, file.string() + ": cannot read it as a PEM file");
  }
  return text.str();
}

std::shared_ptr<grpc::ChannelCredentials> credentials(const Endpoint& endpoint) {
  if (!endpoint.tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  if (!endpoint.ca.empty()) options.pem_root_certs = read_pem(endpoint.ca);
  if (!endpoint.certificate.empty()) {
    options.pem_cert_chain = read_pem(endpoint.certificate);
    options.pem_private_key = read_pem(endpoint.key);
  }
  return grpc::SslCredentials(options);
}

std::shared_ptr<grpc::Channel> open_channel(const Endpoint& endpoint) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // what may be tried again is decided here
  return grpc::CreateCustomChannel(endpoint.address, credentials(endpoint), arguments);
}

// What the library says in several lines, in one.
std::string tls_failure(const Endpoint& endpoint, const std::string& message) {
  const auto says = [&](const char* word) { return message.find(word) != std::string::npos; };
  const char* why =
      says("CERTIFICATE_VERIFY_FAILED")
          ? "its certificate is not signed by --ca (LOCKSTEP_CA), has expired or is of another name"
      : says("WRONG_VERSION_NUMBER") ? "it does not speak TLS"
                                     : "the two sides do not agree; it may ask for a certificate "
                                       "(--certificate and --key)";
  return fmt::format("no TLS connection with {}: {}", endpoint.address, why);
}

// The library would tell of every failed connection on standard error, in lines of its own.
void silence_library() {
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

}  // namespace

std::string make_request_id() {
  std::array<unsigned char, 16> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    throw core::Error(core::ErrorKind::kInternal, "no random bytes for a request id");
  }
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0F) | 0x40);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3F) | 0x80);
  std::string id;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) id += '-';
    id += fmt::format("{:02x}", bytes[i]);
  }
  return id;
}

class Client::Impl {
 public:
  explicit Impl(Endpoint endpoint)
      : endpoint_(std::move(endpoint)),
        patience_(endpoint_.patience),
        channel_((silence_library(), open_channel(endpoint_))),
        runs(v1::RunService::NewStub(channel_)),
        cluster(v1::ClusterService::NewStub(channel_)),
        admin(v1::AdminService::NewStub(channel_)) {}

  template <typename Service, typename Request, typename Response>
  Response unary(Service& service,
                 grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
                 const Request& request, milliseconds deadline = kUnaryDeadline,
                 bool again = true) {
    const Clock::time_point give_up = Clock::now() + (again ? patience() : milliseconds::zero());
    for (milliseconds backoff = kFirstBackoff;; backoff = std::min(2 * backoff, kLongestBackoff)) {
      wait_for_connection(give_up);
      Response response;
      const grpc::Status status = with_context(deadline, [&](grpc::ClientContext& context) {
        return (service.*method)(&context, request, &response);
      });
      if (status.ok()) return response;
      const CallError error = error_of(status);
      const milliseconds asked(static_cast<milliseconds::rep>(1000.0 * error.retry_seconds()));
      const bool in_time = Clock::now() + (error.is_momentary() ? asked : kNoTime) <= give_up;
      if (!(error.is_unavailable() || error.is_momentary()) || !in_time) throw error;
      // What the coordinator asks for, as far as there is time for it.
      const auto left = std::chrono::duration_cast<milliseconds>(give_up - Clock::now());
      pause(std::max(jitter(backoff), std::min(asked, left)));
    }
  }

  // The same for what changes something.
  template <typename Service, typename Request, typename Response>
  Response change(Service& service,
                  grpc::Status (Service::*method)(grpc::ClientContext*, const Request&, Response*),
                  Request& request, milliseconds deadline = kUnaryDeadline) {
    if (request.request_id().empty()) request.set_request_id(make_request_id());
    return unary(service, method, request, deadline);
  }

  template <typename Request, typename Message>
  bool stream(std::unique_ptr<grpc::ClientReader<Message>> (v1::RunService::Stub::*method)(
                  grpc::ClientContext*, const Request&),
              const Request& request, const Take<Message>& take) {
    wait_for_connection(Clock::now() + kFirstBackoff);
    bool taken = false;
    const grpc::Status status = with_context(milliseconds::zero(), [&](grpc::ClientContext& c) {
      const auto reader = ((*runs).*method)(&c, request);
      Message message;
      while (!taken && reader->Read(&message))
        taken = !take(message);
      if (taken) c.TryCancel();
      return reader->Finish();
    });
    if (!taken && !status.ok()) throw error_of(status);
    return taken;
  }

  void interrupt() {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    for (grpc::ClientContext* context : contexts_)
      context->TryCancel();
    changed_.notify_all();
  }

  void pause(milliseconds time) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, time, [this] { return interrupted_; })) throw Interrupted();
  }

  milliseconds patience() {
    const std::lock_guard lock(mutex_);
    return patience_;
  }

  void set_patience(milliseconds patience) {
    const std::lock_guard lock(mutex_);
    patience_ = patience;
  }

  const std::string& address() const { return endpoint_.address; }

 private:
  // Returns when there is a connection, or at `give_up`. A call without one would fail at once,
  // even if the coordinator has come back: the channel only looks again when its own pause is over.
  void wait_for_connection(Clock::time_point give_up) {
    constexpr milliseconds kSlice{100};
    do {
      const auto until = std::chrono::system_clock::now() + kSlice;
      if (channel_->WaitForConnected(until)) return;
      pause(milliseconds::zero());
    } while (Clock::now() < give_up);
  }

  // Zero: no deadline.
  template <typename Call>
  grpc::Status with_context(milliseconds deadline, const Call& call) {
    grpc::ClientContext context;
    if (deadline.count() > 0) context.set_deadline(std::chrono::system_clock::now() + deadline);
    if (!endpoint_.token.empty()) {
      context.AddMetadata("authorization", "Bearer " + endpoint_.token);
    }
    const Registration registered(*this, context);
    const grpc::Status status = call(context);
    const std::lock_guard lock(mutex_);
    if (interrupted_) throw Interrupted();
    return status;
  }

  // Makes a call known to interrupt() while it goes on.
  class Registration {
   public:
    Registration(Impl& impl, grpc::ClientContext& context) : impl_(impl), context_(context) {
      const std::lock_guard lock(impl_.mutex_);
      if (impl_.interrupted_) throw Interrupted();
      impl_.contexts_.insert(&context_);
    }
    ~Registration() {
      const std::lock_guard lock(impl_.mutex_);
      impl_.contexts_.erase(&context_);
    }
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;

   private:
    Impl& impl_;
    grpc::ClientContext& context_;
  };

  CallError error_of(const grpc::Status& status) const {
    std::string message = status.error_message();
    // What a coordinator itself says has details.
    const bool answered = !status.error_details().empty();
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE && !answered) {
      message = message.find("andshake failed") != std::string::npos
                    ? tls_failure(endpoint_, message)
                    : fmt::format(
                          "no coordinator answers at {} ({}); start one with 'lockstep "
                          "coordinator', or name another with --address or "
                          "LOCKSTEP_ADDRESS",
                          endpoint_.address, message);
    }
    return {status.error_code(), message, status.error_details()};
  }

  milliseconds jitter(milliseconds backoff) {
    const std::lock_guard lock(mutex_);
    std::uniform_real_distribution<double> around(0.75, 1.25);
    return milliseconds(
        static_cast<milliseconds::rep>(static_cast<double>(backoff.count()) * around(random_)));
  }

  const Endpoint endpoint_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool interrupted_ = false;
  milliseconds patience_;
  std::set<grpc::ClientContext*> contexts_;
  std::mt19937 random_{std::random_device{}()};
  std::shared_ptr<grpc::Channel> channel_;

 public:
  const std::unique_ptr<v1::RunService::Stub> runs;
  const std::unique_ptr<v1::ClusterService::Stub> cluster;
  const std::unique_ptr<v1::AdminService::Stub> admin;
};

Client::Client(Endpoint endpoint) : impl_(std::make_unique<Impl>(std::move(endpoint))) {}
Client::~Client() = default;

using Runs = v1::RunService::Stub;
using Cluster = v1::ClusterService::Stub;
using Admin = v1::AdminService::Stub;

v1::CreateRunResponse Client::create_run(v1::CreateRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::CreateRun, request);
}
v1::Run Client::get_run(const v1::GetRunRequest& request) {
  return impl_->unary(*impl_->runs, &Runs::GetRun, request);
}
v1::ListRunsResponse Client::list_runs(const v1::ListRunsRequest& request) {
  return impl_->unary(*impl_->runs, &Runs::ListRuns, request);
}
v1::Run Client::update_run(v1::UpdateRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::UpdateRun, request);
}
v1::Run Client::cancel_run(v1::CancelRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::CancelRun, request);
}
v1::Run Client::pause_run(v1::PauseRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::PauseRun, request);
}
v1::Run Client::resume_run(v1::ResumeRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::ResumeRun, request);
}
v1::CheckpointRunResponse Client::checkpoint_run(v1::CheckpointRunRequest request) {
  const milliseconds deadline = request.wait() ? kSlowDeadline : kUnaryDeadline;
  return impl_->change(*impl_->runs, &Runs::CheckpointRun, request, deadline);
}
v1::Run Client::retry_run(v1::RetryRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::RetryRun, request);
}
v1::DeleteRunResponse Client::delete_run(v1::DeleteRunRequest request) {
  return impl_->change(*impl_->runs, &Runs::DeleteRun, request);
}
v1::WaitRunResponse Client::wait_run(const v1::WaitRunRequest& request, milliseconds deadline) {
  return impl_->unary(*impl_->runs, &Runs::WaitRun, request, deadline);
}
v1::ExplainRunResponse Client::explain_run(const v1::ExplainRunRequest& request) {
  return impl_->unary(*impl_->runs, &Runs::ExplainRun, request);
}
v1::ListCheckpointsResponse Client::list_checkpoints(const v1::ListCheckpointsRequest& request) {
  const milliseconds deadline = request.verify() ? kSlowDeadline : kUnaryDeadline;
  return impl_->unary(*impl_->runs, &Runs::ListCheckpoints, request, deadline);
}
v1::ListAttemptsResponse Client::list_attempts(const v1::ListAttemptsRequest& request) {
  return impl_->unary(*impl_->runs, &Runs::ListAttempts, request);
}
v1::ListEventsResponse Client::list_events(const v1::ListEventsRequest& request) {
  return impl_->unary(*impl_->runs, &Runs::ListEvents, request);
}

v1::ListHostsResponse Client::list_hosts() {
  return impl_->unary(*impl_->cluster, &Cluster::ListHosts, v1::ListHostsRequest());
}
v1::Host Client::drain_host(v1::DrainHostRequest request) {
  return impl_->change(*impl_->cluster, &Cluster::DrainHost, request);
}
v1::Host Client::undrain_host(v1::UndrainHostRequest request) {
  return impl_->change(*impl_->cluster, &Cluster::UndrainHost, request);
}

v1::ServerInfo Client::server_info() {
  return impl_->unary(*impl_->admin, &Admin::GetServerInfo, v1::GetServerInfoRequest());
}
v1::CreateTokenResponse Client::create_token(v1::CreateTokenRequest request) {
  return impl_->change(*impl_->admin, &Admin::CreateToken, request);
}
v1::ListTokensResponse Client::list_tokens() {
  return impl_->unary(*impl_->admin, &Admin::ListTokens, v1::ListTokensRequest());
}
v1::Token Client::revoke_token(v1::RevokeTokenRequest request) {
  return impl_->change(*impl_->admin, &Admin::RevokeToken, request);
}
v1::ListAuditEventsResponse Client::list_audit_events(const v1::ListAuditEventsRequest& request) {
  return impl_->unary(*impl_->admin, &Admin::ListAuditEvents, request);
}
v1::BackupStoreResponse Client::backup_store(const v1::BackupStoreRequest& request) {
  return impl_->unary(*impl_->admin, &Admin::BackupStore, request, kSlowDeadline, false);
}
v1::CheckStoreResponse Client::check_store() {
  return impl_->unary(*impl_->admin, &Admin::CheckStore, v1::CheckStoreRequest(), kSlowDeadline);
}
v1::Run Client::adopt_attempt(v1::AdoptAttemptRequest request) {
  return impl_->change(*impl_->admin, &Admin::AdoptAttempt, request);
}
void Client::end_attempt(v1::EndAttemptRequest request) {
  impl_->change(*impl_->admin, &Admin::EndAttempt, request);
}
void Client::shutdown_server() {
  v1::ShutdownServerRequest request;
  impl_->change(*impl_->admin, &Admin::ShutdownServer, request);
}

bool Client::read_logs(const v1::ReadLogsRequest& request, const Take<v1::LogChunk>& take) {
  return impl_->stream(&Runs::ReadLogs, request, take);
}
bool Client::read_metrics(const v1::ReadMetricsRequest& request,
                          const Take<v1::MetricsChunk>& take) {
  return impl_->stream(&Runs::ReadMetrics, request, take);
}
bool Client::watch_runs(const v1::WatchRunsRequest& request, const Take<v1::RunEvent>& take) {
  return impl_->stream(&Runs::WatchRuns, request, take);
}

void Client::interrupt() {
  impl_->interrupt();
}
void Client::pause(milliseconds time) {
  impl_->pause(time);
}
void Client::set_patience(milliseconds patience) {
  impl_->set_patience(patience);
}
milliseconds Client::patience() const {
  return impl_->patience();
}
const std::string& Client::address() const {
  return impl_->address();
}

}  // namespace lockstep::coordinator
