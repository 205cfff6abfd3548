#include "coordinator/server/server_transport.h"

#include <fmt/format.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/server_builder.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "coordinator/attempts/descriptor.h"
#include "coordinator/server/server_limits.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

constexpr unsigned int kCertificateRefreshSeconds = 5;

[[noreturn]] void refuse(const std::string& message) {
  throw core::Error(core::ErrorKind::kConfig, message);
}

// Does a server answer on the socket?
bool answers(const std::filesystem::path& path) {
  const Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.native().size() + 1);
  sockaddr generic{};
  static_assert(sizeof(address) > sizeof(generic));
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

void check_directory(const std::filesystem::path& directory) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(directory, error);
  if (made) std::filesystem::permissions(directory, std::filesystem::perms::owner_all, error);
  struct stat info {};
  if (error || ::stat(directory.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    refuse(fmt::format("listen: cannot make the directory {} of the socket", directory.string()));
  }
  if (info.st_uid != ::geteuid() || (info.st_mode & 077) != 0) {
    refuse(fmt::format(
        "listen: expected the directory of the socket, {}, to be this user's own with mode 0700, "
        "found owner {} and mode {:04o}; who can enter it may do everything with the "
        "coordinator: chmod 700 it, or listen in another directory",
        directory.string(), info.st_uid, info.st_mode & 07777));
  }
}

void check_unix(const ListenAddress& address) {
  if (address.path.native().size() >= sizeof(sockaddr_un::sun_path)) {
    refuse(fmt::format("listen: {} is longer than the {} bytes that the system allows for a socket",
                       address.path.string(), sizeof(sockaddr_un::sun_path) - 1));
  }
  check_directory(address.path.parent_path());
  struct stat info {};
  if (::lstat(address.path.c_str(), &info) != 0) return;
  if (!S_ISSOCK(info.st_mode)) {
    refuse(fmt::format("listen: {} is there and is no socket; remove it, or listen elsewhere",
                       address.path.string()));
  }
  if (answers(address.path)) {
    refuse(fmt::format("listen: another server answers on {}; stop it, or listen elsewhere",
                       address.path.string()));
  }
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open_pem(const std::filesystem::path& file, const char* key) {
  File opened(std::fopen(file.c_str(), "re"), &std::fclose);
  if (opened == nullptr) {
    refuse(fmt::format("tls.{}: cannot read {}: {}", key, file.string(), std::strerror(errno)));
  }
  return opened;
}

std::unique_ptr<X509, void (*)(X509*)> read_certificate(const std::filesystem::path& file,
                                                        const char* key) {
  const File opened = open_pem(file, key);
  std::unique_ptr<X509, void (*)(X509*)> certificate(
      PEM_read_X509(opened.get(), nullptr, nullptr, nullptr), &X509_free);
  if (certificate == nullptr) {
    refuse(fmt::format("tls.{}: expected a certificate in PEM form in {}", key, file.string()));
  }
  return certificate;
}

void check_tls_files(const TlsFiles& tls) {
  const auto certificate = read_certificate(tls.certificate, "certificate");
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    refuse(fmt::format("tls.certificate: {} has expired; every client would refuse it",
                       tls.certificate.string()));
  }
  const File opened = open_pem(tls.key, "key");
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
      PEM_read_PrivateKey(opened.get(), nullptr, nullptr, nullptr), &EVP_PKEY_free);
  if (key == nullptr) {
    refuse(fmt::format("tls.key: expected an unencrypted private key in PEM form in {}",
                       tls.key.string()));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    refuse(fmt::format("tls: the key {} is not that of the certificate {}", tls.key.string(),
                       tls.certificate.string()));
  }
  if (!tls.client_ca.empty()) read_certificate(tls.client_ca, "client_ca");
}

}  // namespace

void check_listen_addresses(const CoordinatorConfig& config, bool has_tokens) {
  if (config.listen.empty()) refuse("listen: expected at least one address");
  const bool tls = !config.tls.certificate.empty();
  for (const ListenAddress& address : config.listen) {
    if (address.is_unix) {
      check_unix(address);
    } else if (!address.is_loopback() && !tls) {
      refuse(fmt::format(
          "listen: {} can be reached from other machines, where tokens and configurations would "
          "travel in the clear; give tls.certificate and tls.key, or listen on a Unix socket or "
          "127.0.0.1",
          address.text()));
    }
  }
  const bool only_tcp = std::none_of(config.listen.begin(), config.listen.end(),
                                     [](const ListenAddress& a) { return a.is_unix; });
  if (only_tcp && !has_tokens) {
    refuse(
        "listen: over TCP every call needs a token, and there is none yet, so nobody could ever "
        "call this server; start it with a Unix socket too, and make a token there with `lockstep "
        "admin token create`");
  }
  if (tls) check_tls_files(config.tls);
}

void remove_stale_socket(const ListenAddress& address) {
  ::unlink(address.path.c_str());
}

std::uint64_t socket_inode(const ListenAddress& address) {
  struct stat info {};
  const bool is_there = ::lstat(address.path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
  return is_there ? info.st_ino : 0;
}

void restrict_socket(const ListenAddress& address) {
  if (::chmod(address.path.c_str(), 0600) != 0) {
    refuse(fmt::format("listen: cannot set the mode of {}: {}", address.path.string(),
                       std::strerror(errno)));
  }
}

std::shared_ptr<grpc::ServerCredentials> make_tcp_credentials(const TlsFiles& tls) {
  if (tls.certificate.empty()) return grpc::InsecureServerCredentials();
  namespace experimental = grpc::experimental;
  const auto provider = std::make_shared<experimental::FileWatcherCertificateProvider>(
      tls.key.string(), tls.certificate.string(), tls.client_ca.string(),
      kCertificateRefreshSeconds);
  experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!tls.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return experimental::TlsServerCredentials(options);
}

void set_transport_options(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.SetMaxSendMessageSize(kMaxResponseBytes);
  builder.SetResourceQuota(grpc::ResourceQuota("coordinator").Resize(kBufferBytes));
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_ALLOW_REUSEPORT, 0},  // two servers on one port would each get half of the calls
      {GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes},
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection},
      {GRPC_ARG_KEEPALIVE_TIME_MS, 60'000},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 30'000},
      {GRPC_ARG_HTTP2_MAX_PING_STRIKES, 3},
      {GRPC_ARG_MAX_CONNECTION_IDLE_MS, 600'000},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000}};
  for (const auto& [name, value] : arguments)
    builder.AddChannelArgument(name, value);
}

}  // namespace lockstep::coordinator
