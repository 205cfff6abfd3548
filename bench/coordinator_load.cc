// Loads a coordinator that runs: queues runs behind one that trains, opens watchers, and measures
// unary calls. One JSON line on stdout. bench/coordinator.sh starts everything.
//
//   coordinator_load ADDRESS CONFIG RUNS WATCHERS SECONDS
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>
#include <vector>

#include "lockstep/v1/run_service.grpc.pb.h"

namespace {

namespace v1 = lockstep::v1;
using Clock = std::chrono::steady_clock;

std::shared_ptr<v1::RunService::Stub> connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::RunService::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

void require(const grpc::Status& status, const std::string& call) {
  if (!status.ok()) throw std::runtime_error(call + ": " + status.error_message());
}

class Latencies {
 public:
  void measure(const std::string& method, const std::function<grpc::Status()>& call) {
    const auto begin = Clock::now();
    require(call(), method);
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    const std::lock_guard lock(mutex_);
    by_method_[method].push_back(ms);
    all_.push_back(ms);
  }

  nlohmann::ordered_json summary() {
    nlohmann::ordered_json json;
    json["all"] = figures(all_);
    for (auto& [method, values] : by_method_)
      json[method] = figures(values);
    return json;
  }

 private:
  static nlohmann::ordered_json figures(std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    const auto at = [&values](double part) {
      const auto index = static_cast<std::size_t>(part * static_cast<double>(values.size()));
      return std::round(values[std::min(index, values.size() - 1)] * 100) / 100;
    };
    return {{"calls", values.size()}, {"p50_ms", at(0.5)}, {"p99_ms", at(0.99)}, {"max_ms", at(1)}};
  }

  std::mutex mutex_;
  std::map<std::string, std::vector<double>> by_method_;
  std::vector<double> all_;
};

struct Load {
  std::string address;
  std::string config;
  int runs;
  int watchers;
  int seconds;
};

std::string submit(v1::RunService::Stub& stub, const std::string& config, int number) {
  v1::CreateRunRequest request;
  request.mutable_run()->set_config_yaml(config);
  request.mutable_run()->add_overrides(fmt::format("run.output=runs/load-{}", number));
  request.mutable_run()->mutable_resources()->set_ranks(2);
  v1::CreateRunResponse response;
  grpc::ClientContext context;
  require(stub.CreateRun(&context, request, &response), "CreateRun");
  return response.run().name();
}

// Reads every event until cancelled; counts them.
class Watcher {
 public:
  Watcher(std::shared_ptr<v1::RunService::Stub> stub, std::atomic<std::int64_t>& events)
      : stub_(std::move(stub)), thread_([this, &events] {
          const auto stream = stub_->WatchRuns(&context_, v1::WatchRunsRequest());
          v1::RunEvent event;
          while (stream->Read(&event))
            ++events;
          stream->Finish();
        }) {}
  ~Watcher() {
    context_.TryCancel();
    thread_.join();
  }

 private:
  grpc::ClientContext context_;
  std::shared_ptr<v1::RunService::Stub> stub_;
  std::thread thread_;
};

// One caller: the calls that people and dashboards make, one after the other, 20 ms apart.
void call_for(const Load& load, const std::vector<std::string>& names, int caller,
              Latencies& latencies) {
  const auto stub = connect(load.address);
  const auto end = Clock::now() + std::chrono::seconds(load.seconds);
  for (std::size_t i = static_cast<std::size_t>(caller) * 37; Clock::now() < end; ++i) {
    const std::string& name = names[i % names.size()];
    latencies.measure("GetRun", [&] {
      grpc::ClientContext context;
      v1::GetRunRequest request;
      request.set_name(name);
      v1::Run run;
      return stub->GetRun(&context, request, &run);
    });
    latencies.measure("ListRuns", [&] {
      grpc::ClientContext context;
      v1::ListRunsRequest request;
      request.set_filter("state=QUEUED");
      v1::ListRunsResponse response;
      return stub->ListRuns(&context, request, &response);
    });
    latencies.measure("ExplainRun", [&] {
      grpc::ClientContext context;
      v1::ExplainRunRequest request;
      request.set_name(name);
      v1::ExplainRunResponse response;
      return stub->ExplainRun(&context, request, &response);
    });
    latencies.measure("UpdateRun", [&] {
      grpc::ClientContext context;
      v1::UpdateRunRequest request;
      request.mutable_run()->set_name(name);
      request.mutable_run()->set_notes(fmt::format("note {} of {}", i, caller));
      request.mutable_update_mask()->add_paths("notes");
      v1::Run run;
      return stub->UpdateRun(&context, request, &run);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void run(const Load& load) {
  const auto stub = connect(load.address);
  std::vector<std::string> names;
  const auto begin = Clock::now();
  for (int i = 0; i < load.runs; ++i)
    names.push_back(submit(*stub, load.config, i));
  const double submit_ms =
      std::chrono::duration<double, std::milli>(Clock::now() - begin).count() / load.runs;
  Latencies latencies;
  std::atomic<std::int64_t> events = 0;
  {
    std::vector<std::unique_ptr<Watcher>> watchers;
    std::shared_ptr<v1::RunService::Stub> shared;
    for (int i = 0; i < load.watchers; ++i) {
      if (i % 25 == 0) shared = connect(load.address);
      watchers.push_back(std::make_unique<Watcher>(shared, events));
    }
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
      callers.emplace_back([&, caller] { call_for(load, names, caller, latencies); });
    for (std::thread& caller : callers)
      caller.join();
  }
  nlohmann::ordered_json line = {{"runs", load.runs},
                                 {"watchers", load.watchers},
                                 {"submit_ms", std::round(submit_ms * 100) / 100},
                                 {"events_watched", events.load()}};
  line.update(latencies.summary());
  std::cout << line.dump() << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: coordinator_load ADDRESS CONFIG RUNS WATCHERS SECONDS\n";
    return 2;
  }
  try {
    std::ifstream file(argv[2]);
    const std::string config{std::istreambuf_iterator<char>(file), {}};
    run({argv[1], config, std::atoi(argv[3]), std::atoi(argv[4]), std::atoi(argv[5])});
  } catch (const std::exception& error) {
    std::cerr << "coordinator_load: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
