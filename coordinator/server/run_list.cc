#include "coordinator/server/run_list.h"

#include <algorithm>
#include <optional>

#include "coordinator/server/conversions.h"
#include "coordinator/server/rpc_error.h"
#include "coordinator/server/run_query.h"
#include "core/error.h"

namespace lockstep::coordinator {
namespace {

RunFilter filter_of(const v1::ListRunsRequest& request) {
  try {
    return RunFilter(request.filter());
  } catch (const core::Error& error) {
    throw invalid_field("filter", error.what());
  }
}

RunOrder order_of(const v1::ListRunsRequest& request) {
  try {
    return RunOrder(request.order_by());
  } catch (const core::Error& error) {
    throw invalid_field("order_by", error.what());
  }
}

std::size_t page_size_of(const v1::ListRunsRequest& request) {
  if (request.page_size() < 0) {
    throw invalid_field("page_size", "expected 0 (" + std::to_string(kDefaultPageSize) + ") to " +
                                         std::to_string(kMaxPageSize) + ", found " +
                                         std::to_string(request.page_size()));
  }
  const int size = request.page_size() == 0 ? kDefaultPageSize : request.page_size();
  return static_cast<std::size_t>(std::min(size, kMaxPageSize));
}

}  // namespace

void list_runs(std::vector<RunPtr> runs, const v1::ListRunsRequest& request,
               const std::string& caller, const PageTokens& tokens,
               v1::ListRunsResponse& response) {
  const RunFilter filter = filter_of(request);
  const RunOrder order = order_of(request);
  const std::size_t page_size = page_size_of(request);
  const PageScope scope = {request.filter(), request.order_by(), caller};
  std::optional<PagePlace> place;
  if (!request.page_token().empty()) {
    place = tokens.read(request.page_token(), scope);
    if (!place) {
      throw invalid_field("page_token",
                          "expected the next_page_token of a call with the same filter, order_by "
                          "and caller");
    }
  }
  std::erase_if(runs, [&filter](const RunPtr& run) { return !filter.matches(run->run); });
  response.set_total_size(static_cast<int>(runs.size()));
  if (place) {
    std::erase_if(
        runs, [&](const RunPtr& run) { return !order.behind(run->run, place->key, place->id); });
  }
  const std::size_t count = std::min(page_size, runs.size());
  std::partial_sort(
      runs.begin(), runs.begin() + static_cast<std::ptrdiff_t>(count), runs.end(),
      [&order](const RunPtr& a, const RunPtr& b) { return order.before(a->run, b->run); });
  std::size_t bytes = 0;
  std::size_t taken = 0;
  for (; taken < count; ++taken) {
    v1::Run run = to_proto(*runs[taken], request.full() ? Texts::kWith : Texts::kWithout);
    bytes += run.ByteSizeLong() + 8;
    if (bytes > kMaxPageBytes && taken > 0) break;
    *response.add_runs() = std::move(run);
  }
  if (taken < runs.size() && taken > 0) {
    const Run& last = runs[taken - 1]->run;
    response.set_next_page_token(tokens.make({order.key_of(last), last.id}, scope));
  }
}

}  // namespace lockstep::coordinator
