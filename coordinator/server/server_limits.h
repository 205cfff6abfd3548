#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "coordinator/model/coordinator_config.h"

namespace lockstep::coordinator {

// Of a connection.
inline constexpr int kMaxRequestBytes = 1 << 20;
inline constexpr int kMaxResponseBytes = 4 << 20;
inline constexpr int kMaxMetadataBytes = 16 << 10;
inline constexpr int kMaxCallsPerConnection = 64;
// Of the server: what gRPC may use for buffers of all connections.
inline constexpr std::size_t kBufferBytes = std::size_t{256} << 20;

// All limits by name, as GetServerInfo tells them.
std::map<std::string, std::int64_t> server_limits(const LimitConfig& config);

}  // namespace lockstep::coordinator
