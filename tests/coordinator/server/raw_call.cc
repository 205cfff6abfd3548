#include "tests/coordinator/server/raw_call.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>

#include "lockstep/v1/admin_service.pb.h"
#include "lockstep/v1/agent_service.pb.h"
#include "lockstep/v1/cluster_service.pb.h"
#include "lockstep/v1/run_service.pb.h"

namespace lockstep::coordinator::testing {

std::unique_ptr<grpc::ClientContext> new_context(const std::string& secret,
                                                 std::chrono::milliseconds timeout) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + timeout);
  if (!secret.empty()) context->AddMetadata("authorization", "Bearer " + secret);
  return context;
}

RawAnswer raw_call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                   const std::string& request, const std::string& secret,
                   std::chrono::milliseconds timeout) {
  const auto context = new_context(secret, timeout);
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer buffer(&slice, 1);
  const auto call = stub.PrepareUnaryCall(context.get(), method, buffer, &queue);
  call->StartCall();
  RawAnswer answer;
  grpc::ByteBuffer reply;
  call->Finish(&reply, &answer.status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  std::vector<grpc::Slice> slices;
  if (answer.status.ok() && reply.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices)
      answer.bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return answer;
}

std::vector<std::string> all_methods() {
  std::vector<std::string> methods;
  for (const auto* file :
       {v1::CreateRunRequest::descriptor()->file(), v1::ListHostsRequest::descriptor()->file(),
        v1::CreateTokenRequest::descriptor()->file(), v1::RegisterRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      const auto* service = file->service(i);
      for (int j = 0; j < service->method_count(); ++j)
        methods.push_back("/" + service->full_name() + "/" + service->method(j)->name());
    }
  }
  return methods;
}

google::rpc::Status details_of(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  return details;
}

std::string reason_of(const grpc::Status& status) {
  const google::rpc::Status details = details_of(status);
  for (const auto& any : details.details()) {
    google::rpc::ErrorInfo info;
    if (any.UnpackTo(&info)) return info.domain() == "lockstep" ? info.reason() : "wrong domain";
  }
  return "";
}

}  // namespace lockstep::coordinator::testing
