#include "launcher/page_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <unistd.h>

#include <charconv>
#include <exception>

#include "core/error.h"
#include "runtime/report/page.h"

namespace lockstep::launcher {
namespace {

constexpr int kThreads = 4;
constexpr int kBadRequest = 400, kForbidden = 403, kNotModified = 304, kFailed = 500;

bool is_this_machine(const std::string& host) {
  return host == "127.0.0.1" || host == "::1" || host == "localhost";
}

// "127.0.0.1" of "127.0.0.1:8000", "::1" of "[::1]:8000".
std::string without_port(const std::string& host) {
  if (host.starts_with('[')) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

// False for a parameter that is there and no number.
bool read_number(const httplib::Request& request, const char* name, double& value) {
  if (!request.has_param(name)) return true;
  const std::string text = request.get_param_value(name);
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size();
}

}  // namespace

struct PageServer::Http {
  httplib::Server server;
};

PageServer::PageServer(const std::string& host, int port, std::vector<runtime::ReportRun> runs)
    : runs_(std::move(runs)), host_(host), http_(std::make_unique<Http>()) {
  if (!is_this_machine(host)) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("--listen {}: expected 127.0.0.1, ::1 or localhost: the page has no "
                    "password; from elsewhere reach it with ssh -L PORT:127.0.0.1:PORT",
                    host));
  }
  httplib::Server& server = http_->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_payload_max_length(1024);
  port_ = port == 0 ? server.bind_to_any_port(host) : server.bind_to_port(host, port) ? port : -1;
  if (port_ <= 0) {
    throw core::Error(
        core::ErrorKind::kConfig,
        fmt::format("--listen {}:{}: cannot listen there; another program has the port; "
                    "choose another one, or 0 for any",
                    host, port));
  }
  route();
}

PageServer::~PageServer() = default;

std::string PageServer::url() const {
  return fmt::format("http://{}:{}/", host_ == "::1" ? "[::1]" : host_, port_);
}

void PageServer::serve() {
  http_->server.listen_after_bind();
}

void PageServer::stop() {
  http_->server.stop();
}

void PageServer::route() {
  httplib::Server& server = http_->server;
  server.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    if (is_this_machine(without_port(request.get_header_value("Host"))))
      return httplib::Server::HandlerResponse::Unhandled;
    response.status = kForbidden;
    response.set_content("expected a Host of this machine\n", "text/plain");
    return httplib::Server::HandlerResponse::Handled;
  });
  server.Get("/", [](const httplib::Request&, httplib::Response& response) {
    response.set_header("Cache-Control", "no-store");
    response.set_content(runtime::live_page(), "text/html; charset=utf-8");
  });
  server.Get("/data.json", [this](const httplib::Request& request, httplib::Response& response) {
    const std::lock_guard lock(mutex_);
    runtime::ReportView view;
    if (!read_number(request, "from", view.from) || !read_number(request, "to", view.to)) {
      response.status = kBadRequest;
      response.set_content("from and to: expected steps\n", "text/plain");
      return;
    }
    try {
      for (runtime::ReportRun& run : runs_)
        version_ += static_cast<std::uint64_t>(run.refresh()) + (run.examine() ? 1 : 0);
      // Unlike that of an earlier server at this address.
      const std::string tag =
          fmt::format("\"{}-{}-{}-{}\"", getpid(), version_, view.from, view.to);
      response.set_header("ETag", tag);
      response.set_header("Cache-Control", "no-store");
      if (request.get_header_value("If-None-Match") == tag) {
        response.status = kNotModified;
      } else {
        response.set_content(runtime::report_json(runs_, view), "application/json");
      }
    } catch (const std::exception& error) {
      response.status = kFailed;
      response.set_content(error.what(), "text/plain; charset=utf-8");
    }
  });
}

}  // namespace lockstep::launcher
