#include "tests/coordinator/server/test_server.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <stdexcept>
#include <thread>

namespace lockstep::coordinator::testing {

void FakeAttempts::launch(const LaunchSpec& spec) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[spec.attempt.run];
  entry = {spec, {}};
  entry.status.phase = AttemptPhase::kRunning;
  entry.status.supervisor_alive = true;
  for (int rank = 0; rank < spec.ranks(); ++rank)
    entry.status.ranks.push_back({rank, 1, true});
  entry.status.start_time_ns = SystemClock().now_ns();
  ++launches_;
}

AttemptStatus FakeAttempts::poll(const AttemptRef& attempt) {
  const std::lock_guard lock(mutex_);
  const auto entry = entries_.find(attempt.run);
  return entry == entries_.end() ? AttemptStatus{} : entry->second.status;
}

StopAnswer FakeAttempts::stop(const AttemptRef& attempt, const StopRequest&) {
  end(attempt.run, 7);
  return StopAnswer::kAccepted;
}

std::vector<FoundAttempt> FakeAttempts::find_all(
    const std::function<bool(const std::string&)>& skip) {
  const std::lock_guard lock(mutex_);
  std::vector<FoundAttempt> all;
  for (const auto& [run, entry] : entries_) {
    if (skip(run)) continue;
    all.push_back({entry.spec.attempt, entry.spec, entry.status.phase == AttemptPhase::kEnded});
  }
  return all;
}

std::vector<AttemptRef> FakeAttempts::living() const {
  const std::lock_guard lock(mutex_);
  std::vector<AttemptRef> all;
  for (const auto& [run, entry] : entries_) {
    if (entry.status.phase != AttemptPhase::kEnded) all.push_back(entry.spec.attempt);
  }
  return all;
}

void FakeAttempts::end(const std::string& run, int code) {
  const std::lock_guard lock(mutex_);
  AttemptStatus& status = entries_.at(run).status;
  if (status.phase == AttemptPhase::kEnded) return;
  status.phase = AttemptPhase::kEnded;
  status.supervisor_alive = false;
  status.exit.code = code;
  status.exit.category = code == 0   ? FailureCategory::kDone
                         : code == 7 ? FailureCategory::kStopped
                                     : FailureCategory::kData;
  status.end_time_ns = SystemClock().now_ns();
}

LaunchSpec FakeAttempts::spec(const std::string& run) const {
  const std::lock_guard lock(mutex_);
  return entries_.at(run).spec;
}

int FakeAttempts::launches() const {
  const std::lock_guard lock(mutex_);
  return launches_;
}

TestServer::TestServer(const std::function<void(CoordinatorConfig&, EngineOptions&)>& change) {
  std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_all);
  config.state_directory = directory / "state";
  config.listen = {parse_listen_address("unix:" + (directory / "s").string())};
  config.hosts = {{"localhost", "localhost", "cpu", 2}};
  config.log.file = directory / "server.log";
  EngineOptions options;
  options.state_directory = config.state_directory.string();
  options.hosts = {{"localhost", "localhost", "cpu", 2}};
  if (change) change(config, options);
  store = std::make_unique<Store>(config.state_directory);
  engine = std::make_unique<Engine>(*store, attempts, checkpoints_, clock_, logger_, options);
  engine->subscribe([this](const Notice& notice) {
    if (notice.event != nullptr) invariants_.saw(*notice.run);
  });
  log_ = std::make_unique<ServerLog>(config.log.file, core::LogLevel::kDebug);
  server = std::make_unique<CoordinatorServer>(*engine, config, *log_, metrics_,
                                               [this] { ++shutdown_requests; });
  loop_ = std::make_unique<EngineLoop>(*engine, logger_, std::chrono::milliseconds(20));
}

TestServer::~TestServer() {
  server.reset();
  loop_.reset();
  check_invariants();
}

// As it is, and as the next coordinator finds it.
void TestServer::check_invariants() {
  invariants_.check(*store, attempts.living());
  engine.reset();
  store.reset();
  store = std::make_unique<Store>(config.state_directory);
  invariants_.check(*store, attempts.living());
}

void TestServer::acknowledged(const std::string& caller, const std::string& request_id,
                              const std::string& run) {
  invariants_.acknowledged(caller, request_id, run);
}

std::string TestServer::address() const {
  return server->addresses().front().text();
}

std::shared_ptr<grpc::Channel> TestServer::channel(const std::string& address) const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  arguments.SetMaxReceiveMessageSize(8 << 20);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

std::string TestServer::secret_of(const std::string& name, std::vector<std::string> scopes,
                                  std::int64_t lifetime_ns) {
  return engine->create_token({name, std::move(scopes), lifetime_ns, new_request_id()}, {}).secret;
}

std::string TestServer::log_text() const {
  return ::lockstep::testing::read_file(config.log.file);
}

RunPtr TestServer::submit(const std::string& name, const Caller& caller) {
  CreateRequest request;
  request.display_name = name;
  request.config_yaml = tiny_config((directory / ("out-" + name)).string());
  request.request_id = new_request_id();
  RunPtr record = engine->create(request, caller).run;
  acknowledged(caller.name, request.request_id, record->run.id);
  return record;
}

RunPtr TestServer::wait_for(const std::string& run, RunState state) const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  RunPtr record = engine->find(run);
  while (record->run.state != state) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error(
          fmt::format("run {} is {}, not {}", run, to_string(record->run.state), to_string(state)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    record = engine->find(run);
  }
  return record;
}

std::string tiny_config(const std::string& output) {
  return fmt::format(
      "run: {{output: {}}}\n"
      "model: {{layers: 2, heads: 2, width: 32, context: 16, vocab: 64}}\n"
      "data: {{train: /nonexistent/tokens.bin, validation: /nonexistent/tokens.bin}}\n"
      "batch: {{global: 24, micro: 1}}\n"
      "train: {{steps: 20}}\n"
      "optimizer: {{learning_rate: 1e-2}}\n",
      output);
}

std::string new_request_id() {
  static std::mt19937_64 random(std::random_device{}());
  const std::uint64_t a = random();
  const std::uint64_t b = random();
  return fmt::format("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", a >> 32, (a >> 16) & 0xffff,
                     a & 0xfff, b >> 52, b & 0xffffffffffff);
}

}  // namespace lockstep::coordinator::testing
