#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/grpcpp.h>

#include <set>
#include <string>

#include <grpc/reflection/v1alpha/reflection.grpc.pb.h>
#include "coordinator/server/method_table.h"
#include "coordinator/server/rpc_error.h"
#include "coordinator/server/server_state.h"
#include "coordinator/server/services.h"

namespace lockstep::coordinator {
namespace {

namespace reflection = grpc::reflection::v1alpha;
using google::protobuf::FileDescriptor;

constexpr char kMethod[] = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
constexpr int kMaxRequests = 1000;  // of one stream

void add_with_imports(const FileDescriptor& file, std::set<std::string>& seen,
                      reflection::FileDescriptorResponse& response) {
  if (!seen.insert(file.name()).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  response.add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i)
    add_with_imports(*file.dependency(i), seen, response);
}

void answer_file(const FileDescriptor* file, const std::string& name,
                 reflection::ServerReflectionResponse& response) {
  if (file == nullptr) {
    response.mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
    response.mutable_error_response()->set_error_message("nothing here is called '" +
                                                         name.substr(0, 256) + "'");
    return;
  }
  std::set<std::string> seen;
  add_with_imports(*file, seen, *response.mutable_file_descriptor_response());
}

void answer_services(reflection::ServerReflectionResponse& response) {
  std::set<std::string> services;
  for (const MethodRule& rule : method_table())
    services.emplace(rule.name.substr(0, rule.name.find('/')));
  for (const std::string& service : services)
    response.mutable_list_services_response()->add_service()->set_name(service);
}

void answer(const reflection::ServerReflectionRequest& request,
            reflection::ServerReflectionResponse& response) {
  using Request = reflection::ServerReflectionRequest;
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case Request::kFileByFilename:
      return answer_file(pool->FindFileByName(request.file_by_filename()),
                         request.file_by_filename(), response);
    case Request::kFileContainingSymbol:
      return answer_file(pool->FindFileContainingSymbol(request.file_containing_symbol()),
                         request.file_containing_symbol(), response);
    case Request::kListServices:
      return answer_services(response);
    case Request::kAllExtensionNumbersOfType:
    case Request::kFileContainingExtension:
    case Request::MESSAGE_REQUEST_NOT_SET:
      break;
  }
  response.mutable_error_response()->set_error_code(grpc::StatusCode::UNIMPLEMENTED);
  response.mutable_error_response()->set_error_message("this protocol has no extensions");
}

// Request, answer, request, answer: one message in memory each way.
class Stream final : public grpc::ServerBidiReactor<reflection::ServerReflectionRequest,
                                                    reflection::ServerReflectionResponse> {
 public:
  Stream(ServerState& state, const grpc::CallbackServerContext& context) {
    try {
      Principal principal;
      state.gate.admit(context, *find_method(kMethod), nullptr, principal);
      StartRead(&request_);
    } catch (...) {
      Finish(to_status(std::current_exception()));
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok || ++requests_ > kMaxRequests) return Finish(grpc::Status::OK);
    response_.Clear();
    answer(request_, response_);
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  reflection::ServerReflectionRequest request_;
  reflection::ServerReflectionResponse response_;
  int requests_ = 0;
};

class ReflectionService final : public reflection::ServerReflection::CallbackService {
 public:
  explicit ReflectionService(ServerState& state) : state_(state) {}

  grpc::ServerBidiReactor<reflection::ServerReflectionRequest,
                          reflection::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override {
    return new Stream(state_, *context);
  }

 private:
  ServerState& state_;
};

// A method that nobody has. Who may call nothing is told nothing, not even that.
class RefusingReactor final : public grpc::ServerGenericBidiReactor {
 public:
  RefusingReactor(ServerState& state, const grpc::GenericCallbackServerContext& context) {
    static constexpr MethodRule kRule = {"an unknown method", Access::kRead, CallKind::kRead,
                                         Lane::kRead, false};
    try {
      Principal principal;
      state.gate.admit(context, kRule, nullptr, principal);
      Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED,
                          "no such method: " + context.method().substr(0, 256)));
    } catch (...) {
      Finish(to_status(std::current_exception()));
    }
  }
  void OnDone() override { delete this; }
};

class RefusingService final : public grpc::CallbackGenericService {
 public:
  explicit RefusingService(ServerState& state) : state_(state) {}
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new RefusingReactor(state_, *context);
  }

 private:
  ServerState& state_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_reflection_service(ServerState& state) {
  return std::make_unique<ReflectionService>(state);
}

std::unique_ptr<grpc::CallbackGenericService> make_refusing_service(ServerState& state) {
  return std::make_unique<RefusingService>(state);
}

}  // namespace lockstep::coordinator
