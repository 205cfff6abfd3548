#include "coordinator/model/coordinator_config.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/processors.h"
#include "runtime/config/document.h"
#include "runtime/config/problems.h"
#include "runtime/config/strict_map.h"

namespace lockstep::coordinator {

namespace fs = std::filesystem;
using runtime::PlacedNode;
using runtime::StrictMap;

namespace {

constexpr std::int32_t kLargestPort = 65'535;
constexpr std::int32_t kMostSlots = 4'096;
// sun_path of sockaddr_un has 108 bytes with the closing zero.
constexpr std::size_t kLongestSocketPath = 107;

[[noreturn]] void fail(const std::string& message) {
  throw core::Error(core::ErrorKind::kConfig, message);
}

fs::path home_directory() {
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') return home;
  const passwd* user = getpwuid(geteuid());
  if (user == nullptr || user->pw_dir == nullptr) {
    fail("this user has no home directory; set HOME, or state_directory and listen");
  }
  return user->pw_dir;
}

bool is_host_word(const std::string& text) {
  const auto legal = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  };
  return !text.empty() && text.size() <= 64 && std::isalnum(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), legal);
}

std::int32_t parse_port(const std::string& text, const std::string& whole) {
  std::int32_t port = -1;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, port);
  if (result.ec != std::errc() || result.ptr != end || port < 0 || port > kLargestPort) {
    fail(fmt::format("'{}': expected a port from 0 (any free one) to {} after the last ':'", whole,
                     kLargestPort));
  }
  return port;
}

ListenAddress unix_address(const fs::path& path) {
  ListenAddress address;
  address.path = fs::absolute(path).lexically_normal();
  if (address.path.string().size() > kLongestSocketPath) {
    fail(fmt::format("the socket path {} has {} bytes; the system allows {}", address.path.string(),
                     address.path.string().size(), kLongestSocketPath));
  }
  return address;
}

void read_listen(StrictMap& root, CoordinatorConfig& config, runtime::Problems& problems) {
  if (!root.has("listen")) return;
  config.listen.clear();
  for (const PlacedNode& element : root.list("listen")) {
    if (!element.node.IsScalar()) {
      problems.add(element.where, "listen",
                   "expected an address, found " + runtime::describe_node(element.node));
      continue;
    }
    try {
      config.listen.push_back(parse_listen_address(element.node.Scalar()));
    } catch (const core::Error& error) {
      problems.add(element.where, "listen", error.what());
    }
  }
  if (config.listen.empty() && root.list("listen").empty()) {
    root.problem("listen", "the list is empty; nobody could reach the coordinator");
  }
}

void read_tls(StrictMap& root, CoordinatorConfig& config, runtime::Problems& problems) {
  StrictMap tls(root.at("tls"), "tls", {"certificate", "key", "client_ca"}, problems);
  tls.read("certificate", config.tls.certificate);
  tls.read("key", config.tls.key);
  tls.read("client_ca", config.tls.client_ca);
  if (tls.has("certificate") != tls.has("key")) {
    root.problem("tls", "certificate and key go together; one of them is missing");
  } else if (tls.has("client_ca") && !tls.has("certificate")) {
    root.problem("tls", "client_ca needs certificate and key of the server too");
  }
}

HostConfig read_host(const PlacedNode& element, runtime::Problems& problems) {
  HostConfig host;
  StrictMap map(element, "hosts", {"name", "address", "slots", "gpus"}, problems);
  map.read("name", host.name);
  if (!map.has("name")) problems.add(element.where, "hosts", "every host needs a name");
  host.address = host.name;
  map.read("address", host.address);
  for (const auto& [key, word] : {std::pair{"name", host.name}, {"address", host.address}}) {
    if (map.has(key) && !is_host_word(word)) {
      map.problem(key, fmt::format("found '{}'; legal: 1 to 64 letters, digits, '.', '-', '_', the "
                                   "first a letter or digit",
                                   word));
    }
  }
  if (map.has("slots") == map.has("gpus")) {
    problems.add(element.where, "hosts",
                 "every host has either slots (CPU ranks) or gpus, exactly one of the two");
  }
  host.kind = map.has("gpus") ? "gpu" : "cpu";
  map.read("slots", host.slots, 1, kMostSlots);
  map.read("gpus", host.slots, 1, kMostSlots);
  return host;
}

void read_hosts(StrictMap& root, CoordinatorConfig& config, runtime::Problems& problems) {
  if (!root.has("hosts")) return;
  config.hosts.clear();
  std::set<std::string> names;
  for (const PlacedNode& element : root.list("hosts")) {
    config.hosts.push_back(read_host(element, problems));
    const std::string& name = config.hosts.back().name;
    if (!name.empty() && !names.insert(name).second) {
      problems.add(element.where, "hosts", "a second host of the name '" + name + "'");
    }
  }
  if (config.hosts.empty()) root.problem("hosts", "the list is empty; nothing could ever run");
}

void read_limits(StrictMap& root, CoordinatorConfig& config, runtime::Problems& problems) {
  constexpr std::int32_t kMany = 1'000'000;
  LimitConfig& limits = config.limits;
  StrictMap map(root.at("limits"), "limits",
                {"queued_runs", "queued_runs_per_caller", "streams_per_caller", "log_bytes_per_run",
                 "priority"},
                problems);
  map.read("queued_runs", limits.queued_runs, 1, kMany);
  map.read("queued_runs_per_caller", limits.queued_runs_per_caller, 1, kMany);
  map.read("streams_per_caller", limits.streams_per_caller, 1, kMany);
  map.read("log_bytes_per_run", limits.log_bytes_per_run, std::int64_t{1} << 16,
           std::int64_t{1} << 50);
  StrictMap priority(map.at("priority"), "limits.priority", {"submit", "operate"}, problems);
  priority.read("submit", limits.priority_of_submit, -kMaxPriority, kMaxPriority);
  priority.read("operate", limits.priority_of_operate, -kMaxPriority, kMaxPriority);
}

void read_retry(StrictMap& root, CoordinatorConfig& config, runtime::Problems& problems) {
  StrictMap map(root.at("retry"), "retry",
                {"max_restarts", "base_delay_seconds", "max_delay_seconds"}, problems);
  map.read("max_restarts", config.retry.max_restarts, 0, 1'000);
  map.read_seconds("base_delay_seconds", config.retry.base_delay_ns);
  map.read_seconds("max_delay_seconds", config.retry.max_delay_ns);
  if (config.retry.max_delay_ns < config.retry.base_delay_ns) {
    map.problem("max_delay_seconds", "the longest delay is shorter than the first one");
  }
}

void read_log(StrictMap& root, CoordinatorConfig& config, runtime::Problems& problems) {
  StrictMap map(root.at("log"), "log", {"file", "level"}, problems);
  map.read("file", config.log.file);
  map.read_choice("level", config.log.level, {"debug", "info", "warning", "error"});
}

bool is_this_machine(const std::string& address) {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return address == "localhost" || address == "127.0.0.1" || address == name;
}

// Rules that concern more than one key.
void check_together(StrictMap& root, CoordinatorConfig& config) {
  const auto is_open = [](const ListenAddress& a) { return !a.is_loopback(); };
  const auto open = std::find_if(config.listen.begin(), config.listen.end(), is_open);
  if (open != config.listen.end() && config.tls.certificate.empty()) {
    root.problem("listen", fmt::format("other machines can reach {}, so it needs tls: give tls."
                                       "certificate and tls.key, or listen on 127.0.0.1",
                                       open->text()));
  }
  const auto elsewhere =
      std::find_if(config.hosts.begin(), config.hosts.end(),
                   [](const HostConfig& host) { return !is_this_machine(host.address); });
  if (config.agent_address.empty() && elsewhere != config.hosts.end()) {
    root.problem("hosts", fmt::format("runs on {} could not reach the coordinator; give "
                                      "agents.address, as HOST:PORT that they can reach",
                                      elsewhere->name));
  }
  if (config.agent_address.empty() && !config.listen.empty()) {
    const auto local = std::find_if(config.listen.begin(), config.listen.end(),
                                    [](const ListenAddress& a) { return a.is_unix; });
    config.agent_address = (local != config.listen.end() ? *local : config.listen.front()).text();
  }
}

}  // namespace

bool ListenAddress::is_loopback() const {
  return is_unix || host == "localhost" || host == "::1" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos);
}

std::string ListenAddress::text() const {
  if (is_unix) return "unix:" + path.string();
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

ListenAddress parse_listen_address(const std::string& text) {
  if (text.starts_with("unix:")) return unix_address(text.substr(std::strlen("unix:")));
  if (text.starts_with("/")) return unix_address(text);
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    fail(fmt::format("'{}': expected unix:/PATH, HOST:PORT or [IPV6]:PORT", text));
  }
  ListenAddress address;
  address.is_unix = false;
  address.port = parse_port(text.substr(colon + 1), text);
  std::string host = text.substr(0, colon);
  if (host.starts_with("[") && host.ends_with("]")) {
    host = host.substr(1, host.size() - 2);
  } else if (!is_host_word(host)) {
    fail(fmt::format("'{}': '{}' is no host name; an IPv6 address stands in brackets", text, host));
  }
  address.host = host;
  return address;
}

fs::path default_socket() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime == '/') return fs::path(runtime) / "lockstep/coordinator.sock";
  return home_directory() / ".lockstep/coordinator.sock";
}

CoordinatorConfig default_coordinator_config() {
  return parse_coordinator_config("", "the defaults");
}

CoordinatorConfig parse_coordinator_config(std::string_view text, const std::string& source) {
  runtime::Problems problems;
  StrictMap root(runtime::parse_yaml(text, source), "",
                 {"state_directory", "listen", "tls", "agents", "hosts", "metrics_port", "limits",
                  "retry", "log", "environment", "retention", "hooks"},
                 problems);
  CoordinatorConfig config;
  root.read("state_directory", config.state_directory);
  if (!root.has("state_directory"))
    config.state_directory = home_directory() / ".local/state/lockstep";
  if (!root.has("listen")) config.listen = {unix_address(default_socket())};
  if (!root.has("hosts"))
    config.hosts = {{"local", "localhost", "cpu", std::min(core::usable_cores(), kMostSlots)}};
  read_listen(root, config, problems);
  read_tls(root, config, problems);
  StrictMap agents(root.at("agents"), "agents", {"address"}, problems);
  agents.read("address", config.agent_address);
  read_hosts(root, config, problems);
  root.read("metrics_port", config.metrics_port, 0, kLargestPort);
  read_limits(root, config, problems);
  read_retry(root, config, problems);
  read_log(root, config, problems);
  read_environment(root, config.environment, problems);
  read_retention(root, config.retention, problems);
  read_hooks(root, config.hooks, problems);
  check_together(root, config);
  problems.throw_if_any();
  return config;
}

CoordinatorConfig load_coordinator_config(const fs::path& file) {
  if (fs::is_directory(file)) fail(file.string() + ": cannot read it: it is a directory");
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail(fmt::format("{}: cannot read it: {}", file.string(), std::strerror(errno)));
  std::ostringstream text;
  text << stream.rdbuf();
  return parse_coordinator_config(text.str(), file.string());
}

}  // namespace lockstep::coordinator
