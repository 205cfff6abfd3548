#pragma once

#include <string>

namespace lockstep::runtime {

// The page that shows runs: report/page/ with its style, script and the charts of dygraphs, all in
// one text that asks nothing of any network.

// With `data` of report_json inside.
std::string report_page(const std::string& data);

// The same, which asks the server that it came from for `data.json` again and again, with the header
// If-None-Match, and with ?from=STEP&to=STEP for the part of the curves that is looked at.
std::string live_page();

}  // namespace lockstep::runtime
