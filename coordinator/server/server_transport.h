#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "coordinator/model/coordinator_config.h"

namespace grpc {
class ServerBuilder;
class ServerCredentials;
}  // namespace grpc

// Where and how the server may listen. Everything that would let in somebody who should not be is
// refused before anything listens: core::Error(kConfig) with what was expected and how to fix it.
namespace lockstep::coordinator {

// The rules, in order:
//  - a Unix socket lies in a directory of this user that nobody else can enter (0700; made if it is
//    not there), and no other server answers on it;
//  - over TCP every call needs a token, so a server that listens only on TCP needs one that is good
//    (`has_tokens`), or nobody could ever call it;
//  - an address that other machines can reach needs TLS.
void check_listen_addresses(const CoordinatorConfig& config, bool has_tokens);

// Removes a socket that a dead server left. The path has been checked.
void remove_stale_socket(const ListenAddress& address);
// Of the file at the path of a Unix address; 0: there is no socket.
std::uint64_t socket_inode(const ListenAddress& address);
// Only this user may connect.
void restrict_socket(const ListenAddress& address);

// For the TCP addresses: TLS 1.2 or later where the files are given, read again when they change; a
// client certificate is demanded and verified where client_ca is given. Without files, none.
std::shared_ptr<grpc::ServerCredentials> make_tcp_credentials(const TlsFiles& tls);

// Limits of server_limits.h, keepalive, and no sharing of ports.
void set_transport_options(grpc::ServerBuilder& builder);

}  // namespace lockstep::coordinator
