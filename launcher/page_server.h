#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/report/report_data.h"

namespace lockstep::launcher {

// Serves the page of runs and their data over HTTP, on this machine alone:
//   GET /           the page
//   GET /data.json  report_json of the runs as their files are now, with an ETag;
//                   ?from=STEP&to=STEP: that part of the curves, in full detail
// Requests whose Host names anything but this machine are refused (403), so that no page of a
// foreign site can read along; a file that cannot be read is a 500 with the reason.
class PageServer {
 public:
  // `host` is 127.0.0.1, ::1 or localhost; port 0 takes any free one. Throws Error(kConfig) for
  // another host, or a port that is taken.
  PageServer(const std::string& host, int port, std::vector<runtime::ReportRun> runs);
  ~PageServer();
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;

  std::string url() const;  // "http://127.0.0.1:40123/"
  void serve();             // until stop(), which another thread calls
  void stop();

 private:
  struct Http;

  void route();

  std::mutex mutex_;  // guards runs_, version_
  std::vector<runtime::ReportRun> runs_;
  std::uint64_t version_ = 0;  // counts what was new
  std::string host_;
  int port_ = 0;
  std::unique_ptr<Http> http_;
};

}  // namespace lockstep::launcher
