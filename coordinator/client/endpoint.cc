#include "coordinator/client/endpoint.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "coordinator/model/coordinator_config.h"
#include "core/error.h"

namespace lockstep::coordinator {

namespace fs = std::filesystem;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string read_secret(const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
      (status.st_mode & (S_IRWXO | S_IWGRP)) != 0) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{}: others on this machine can read or change this token (mode {:04o}); "
                    "'chmod 600 {}', and make a new one if it may have been read",
                    file.string(), status.st_mode & 07777, file.string()));
  }
  std::ifstream stream(file);
  std::string secret;
  if (!std::getline(stream, secret) || secret.empty()) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("{}: expected a file whose first line is a token", file.string()));
  }
  while (!secret.empty() && (secret.back() == '\r' || secret.back() == ' '))
    secret.pop_back();
  return secret;
}

std::string find_token(const EndpointOptions& options) {
  if (!options.token_file.empty()) return read_secret(options.token_file);
  if (const std::string token = variable("LOCKSTEP_TOKEN"); !token.empty()) return token;
  if (const std::string file = variable("LOCKSTEP_TOKEN_FILE"); !file.empty()) {
    return read_secret(file);
  }
  return "";
}

fs::path either(const fs::path& option, const char* name) {
  return option.empty() ? fs::path(variable(name)) : option;
}

}  // namespace

Endpoint resolve_endpoint(const EndpointOptions& options) {
  std::string text = options.address.empty() ? variable("LOCKSTEP_ADDRESS") : options.address;
  if (text.empty()) text = "unix:" + default_socket().string();
  const ListenAddress address = parse_listen_address(text);
  Endpoint endpoint;
  endpoint.address = address.text();
  endpoint.token = find_token(options);
  endpoint.ca = either(options.ca, "LOCKSTEP_CA");
  endpoint.certificate = either(options.certificate, "LOCKSTEP_CERTIFICATE");
  endpoint.key = either(options.key, "LOCKSTEP_KEY");
  // Only a machine itself can read what it sends to itself.
  endpoint.tls = !address.is_unix && (!address.is_loopback() || !endpoint.ca.empty());
  if (endpoint.certificate.empty() != endpoint.key.empty()) {
    throw core::Error(core::ErrorKind::kConfig,
                      "--certificate and --key go together; one of them is missing");
  }
  endpoint.patience =
      std::chrono::milliseconds(static_cast<std::int64_t>(options.patience_seconds * 1000.0));
  return endpoint;
}

}  // namespace lockstep::coordinator
