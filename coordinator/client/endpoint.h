#pragma once

#include <chrono>
#include <filesystem>
#include <string>

namespace lockstep::coordinator {

// Where the coordinator is, and who asks. Secrets come from files and the environment only: a
// command line can be read by every user of the machine.
struct Endpoint {
  std::string address{};                 // "unix:/path", "HOST:PORT"
  std::string token{};                   // empty: none; a Unix socket needs none
  bool tls = false;                      // always, but on loopback without `ca`
  std::filesystem::path ca{};            // PEM; empty: what the system trusts
  std::filesystem::path certificate{};   // PEM, of this client; empty: none
  std::filesystem::path key{};           // PEM
  std::chrono::milliseconds patience{};  // how long to try again while it cannot be reached
};

// What the options of a command said; empty members fall back on the environment: LOCKSTEP_ADDRESS,
// LOCKSTEP_TOKEN, LOCKSTEP_TOKEN_FILE, LOCKSTEP_CA, LOCKSTEP_CERTIFICATE, LOCKSTEP_KEY; then on the
// default socket of this user.
struct EndpointOptions {
  std::string address{};
  std::filesystem::path token_file{};
  std::filesystem::path ca{};
  std::filesystem::path certificate{};
  std::filesystem::path key{};
  double patience_seconds = 5.0;
};

// Throws core::Error(kConfig): an address of no known form, a file that cannot be read, a token
// that would travel in the clear.
Endpoint resolve_endpoint(const EndpointOptions& options);

}  // namespace lockstep::coordinator
