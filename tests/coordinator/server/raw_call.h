#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "google/rpc/error_details.pb.h"

namespace lockstep::coordinator::testing {

struct RawAnswer {
  grpc::Status status;
  std::string bytes;
};

// Calls any method with any bytes as its request. Of a stream, the first message.
RawAnswer raw_call(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                   const std::string& request, const std::string& secret = "",
                   std::chrono::milliseconds timeout = std::chrono::seconds(10));

// "/lockstep.v1.RunService/GetRun", ...: every method of every service of lockstep.v1.
std::vector<std::string> all_methods();

// ErrorInfo.reason; "" if the status has none.
std::string reason_of(const grpc::Status& status);
google::rpc::Status details_of(const grpc::Status& status);

// A context with a deadline and, if it is not empty, a token.
std::unique_ptr<grpc::ClientContext> new_context(
    const std::string& secret = "", std::chrono::milliseconds timeout = std::chrono::seconds(10));

}  // namespace lockstep::coordinator::testing
