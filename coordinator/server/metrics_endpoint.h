#pragma once

#include <functional>
#include <memory>
#include <string>

namespace lockstep::coordinator {

// GET /metrics over HTTP on 127.0.0.1; everything else is 404. One connection is served at a time,
// each for a few seconds at most: it is for one scraper, and is nobody's way to slow the server.
class MetricsEndpoint {
 public:
  // port: 0 takes any free one. Throws core::Error(kConfig) if the port is taken.
  MetricsEndpoint(int port, std::function<std::string()> text);
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  int port() const;

 private:
  struct Server;
  std::unique_ptr<Server> server_;
};

}  // namespace lockstep::coordinator
