#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <fstream>

#include "coordinator/agent/agent.h"
#include "core/error.h"

namespace lockstep::coordinator::agent {

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

template <typename Number>
bool parse(const std::string& text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [behind, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && behind == end;
}

// "RUN.NUMBER.FENCE"
void read_tag(AgentOptions& options) {
  const std::string tag = variable("LOCKSTEP_ATTEMPT");
  const std::size_t last = tag.rfind('.');
  const std::size_t first =
      last == std::string::npos || last == 0 ? last : tag.rfind('.', last - 1);
  if (first == std::string::npos || first == 0 ||
      !parse(tag.substr(first + 1, last - first - 1), options.attempt) ||
      !parse(tag.substr(last + 1), options.fence)) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("LOCKSTEP_COORDINATOR is set, so LOCKSTEP_ATTEMPT must be "
                                  "RUN.NUMBER.FENCE; found '{}'",
                                  tag));
  }
  options.run = tag.substr(0, first);
}

std::string read_secret(const std::string& file) {
  if (file.empty()) return "";
  std::ifstream in(file);
  std::string secret;
  if (!std::getline(in, secret) || secret.empty()) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("LOCKSTEP_AGENT_TOKEN_FILE: {} has no first line with a token", file));
  }
  return secret;
}

}  // namespace

std::optional<AgentOptions> options_from_environment() {
  AgentOptions options;
  options.address = variable("LOCKSTEP_COORDINATOR");
  if (options.address.empty()) return std::nullopt;
  read_tag(options);
  options.secret = read_secret(variable("LOCKSTEP_AGENT_TOKEN_FILE"));
  options.ca_file = variable("LOCKSTEP_CA");
  options.certificate_file = variable("LOCKSTEP_CERTIFICATE");
  options.key_file = variable("LOCKSTEP_KEY");
  return options;
}

}  // namespace lockstep::coordinator::agent
