#include "coordinator/server/metrics_endpoint.h"

#include <fmt/format.h>
#include <httplib.h>

#include <thread>
#include <utility>

#include "core/error.h"

namespace lockstep::coordinator {

struct MetricsEndpoint::Server {
  httplib::Server http;
  int port = 0;
  std::thread thread;
};

MetricsEndpoint::MetricsEndpoint(int port, std::function<std::string()> text)
    : server_(std::make_unique<Server>()) {
  httplib::Server& http = server_->http;
  http.new_task_queue = [] { return new httplib::ThreadPool(1); };
  http.set_read_timeout(2);
  http.set_write_timeout(2);
  http.set_keep_alive_max_count(1);
  http.set_payload_max_length(1024);
  http.Get("/metrics",
           [text = std::move(text)](const httplib::Request&, httplib::Response& response) {
             response.set_content(text(), "text/plain; version=0.0.4; charset=utf-8");
           });
  constexpr char kHost[] = "127.0.0.1";
  if (port == 0) {
    server_->port = http.bind_to_any_port(kHost);
  } else {
    server_->port = http.bind_to_port(kHost, port) ? port : -1;
  }
  if (server_->port <= 0) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("metrics_port: cannot listen on 127.0.0.1:{}; another program "
                                  "has the port; choose another one, or 0 for no metrics",
                                  port));
  }
  server_->thread = std::thread([&http] { http.listen_after_bind(); });
}

MetricsEndpoint::~MetricsEndpoint() {
  // stop() before listen_after_bind() has begun would be lost.
  while (!server_->http.is_running() && server_->thread.joinable())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  server_->http.stop();
  server_->thread.join();
}

int MetricsEndpoint::port() const {
  return server_->port;
}

}  // namespace lockstep::coordinator
