#pragma once

#include <grpcpp/support/status.h>
#include <exception>

#include "coordinator/engine/engine_error.h"

namespace lockstep::coordinator {

// What the caller of a method gets: the code, the message, and in the details (trailer
// grpc-status-details-bin) google.rpc.ErrorInfo with the reason, the domain "lockstep" and the
// metadata; BadRequest with the violations; RetryInfo where trying again may help.
grpc::Status to_status(const EngineError& error);

// Of anything that was thrown. A bug is INTERNAL.
grpc::Status to_status(const std::exception_ptr& error);

// A request that the server's own readers (filters, orders, addresses) found wrong: `message` is
// theirs.
EngineError invalid_field(const std::string& field, const std::string& message);

}  // namespace lockstep::coordinator
