#include "launcher/commands/watch_command.h"

#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <ostream>

#include "core/error.h"
#include "launcher/page_server.h"

namespace lockstep::launcher {
namespace {

struct WatchOptions {
  std::vector<std::string> runs;
  std::string listen = "127.0.0.1:0";
};

struct Address {
  std::string host;
  int port = 0;
};

// "127.0.0.1:8000", "[::1]:8000"
Address parse_address(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  Address address;
  if (colon != std::string::npos) {
    address.host = text.substr(0, colon);
    if (address.host.starts_with('[') && address.host.ends_with(']'))
      address.host = address.host.substr(1, address.host.size() - 2);
    const char* end = text.data() + text.size();
    const auto [last, failure] = std::from_chars(text.data() + colon + 1, end, address.port);
    if (failure == std::errc() && last == end && address.port >= 0 && address.port <= 65535)
      return address;
  }
  throw core::Error(
      core::ErrorKind::kConfig,
      fmt::format("--listen {}: expected ADDRESS:PORT, such as 127.0.0.1:8000", text));
}

int watch(const WatchOptions& options, CommandContext& context) {
  const Address address = parse_address(options.listen);
  PageServer server(address.host, address.port, runtime::open_runs(options.runs));
  context.out << server.url() << std::endl;
  context.err << "open it in a browser; Ctrl-C ends watching, and leaves the runs alone"
              << std::endl;
  server.serve();
  return 0;
}

}  // namespace

void add_watch_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand(
      "watch", "serve the page of `report` over HTTP, following runs as they train");
  auto options = std::make_shared<WatchOptions>();
  command->add_option("runs", options->runs, "output directories of runs, started or not")
      ->required()
      ->option_text("RUN...");
  command
      ->add_option("--listen", options->listen,
                   "where: 127.0.0.1, [::1] or localhost with a port; 0 takes a free one (default "
                   "127.0.0.1:0)")
      ->option_text("ADDRESS:PORT");
  set_action(*command, context, [options, &context] { return watch(*options, context); });
}

}  // namespace lockstep::launcher
