#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "runtime/report/report_run.h"

namespace lockstep::runtime {

// Which part of the curves, and how fine.
struct ReportView {
  double from = -std::numeric_limits<double>::infinity();  // steps
  double to = std::numeric_limits<double>::infinity();
  std::size_t points = 2000;  // of a curve
};

// What the page of report/page/ shows, as JSON text (version 1), in ASCII and without '<', so that it
// may stand in a page:
//   {"version":1,"runs":[{"label","path","steps","total_steps","tokens","seconds",
//     "clip_threshold","facts":[[name, text]...],
//     "curves":{name:[[x...],[y...]]...},             as RunCurves::curve, thinned out
//     "axes":{"tokens":[[x...],[y...]],"seconds":...},
//     "layers":{"names":[...],"steps":[...],"values":{statistic:[[a value a step]... a layer]}},
//     "unapplied":{"counts":{outcome:n},"rows":[[step, outcome, reason]...]},
//     "findings":[...] as ReportRun::findings}...],
//    "config":[{"key","values":[a text a run]}...]}
// Absent values are null.
std::string report_json(const std::vector<ReportRun>& runs, const ReportView& view);

}  // namespace lockstep::runtime
