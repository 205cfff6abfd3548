#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>

#include "coordinator/client/client.h"
#include "lockstep/v1/run_service.grpc.pb.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::testing {

// A RunService whose answers a test writes, on a socket of its own.
class FakeRunService : public v1::RunService::Service {
 public:
  FakeRunService() { start(); }
  ~FakeRunService() override { stop(); }

  void start() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address(), grpc::InsecureServerCredentials());
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) throw std::runtime_error("no server at " + address());
  }
  // At once, with the calls that are going on.
  void stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  std::string address() const { return "unix:" + (directory_ / "socket").string(); }
  coordinator::Endpoint endpoint() const {
    coordinator::Endpoint endpoint;
    endpoint.address = address();
    endpoint.patience = std::chrono::seconds(20);
    return endpoint;
  }

  std::function<grpc::Status(grpc::ServerContext*, const v1::CreateRunRequest*,
                             v1::CreateRunResponse*)>
      on_create{};
  std::function<grpc::Status(const v1::GetRunRequest*, v1::Run*)> on_get{};
  std::function<grpc::Status(grpc::ServerContext*, const v1::WaitRunRequest*, v1::WaitRunResponse*)>
      on_wait{};
  std::function<grpc::Status(grpc::ServerContext*, const v1::ReadLogsRequest*,
                             grpc::ServerWriter<v1::LogChunk>*)>
      on_logs{};

  grpc::Status CreateRun(grpc::ServerContext* context, const v1::CreateRunRequest* request,
                         v1::CreateRunResponse* response) override {
    return on_create(context, request, response);
  }
  grpc::Status GetRun(grpc::ServerContext*, const v1::GetRunRequest* request,
                      v1::Run* response) override {
    return on_get ? on_get(request, response) : grpc::Status::OK;
  }
  grpc::Status WaitRun(grpc::ServerContext* context, const v1::WaitRunRequest* request,
                       v1::WaitRunResponse* response) override {
    return on_wait(context, request, response);
  }
  grpc::Status ReadLogs(grpc::ServerContext* context, const v1::ReadLogsRequest* request,
                        grpc::ServerWriter<v1::LogChunk>* writer) override {
    return on_logs(context, request, writer);
  }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace lockstep::testing
