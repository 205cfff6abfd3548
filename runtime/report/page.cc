#include "runtime/report/page.h"

#include <string_view>
#include <utility>
#include <vector>

#include "runtime/report/page_texts.h"

namespace lockstep::runtime {
namespace {

// Replaces the places {{NAME}} of page.html.
std::string fill(const std::vector<std::pair<std::string_view, std::string_view>>& places) {
  std::string page(kPageHtml);
  for (const auto& [name, text] : places) {
    const std::string place = "{{" + std::string(name) + "}}";
    page.replace(page.find(place), place.size(), text);
  }
  return page;
}

std::string page_with(const std::string& data, std::string_view connect) {
  return fill({{"CONNECT", connect},
               {"STYLE", kPageCss},
               {"CHARTS_STYLE", kDygraphCss},
               {"CHARTS", kDygraphJs},
               {"SCRIPT", kPageJs},
               {"DATA", data}});  // last: a run may have any name
}

}  // namespace

std::string report_page(const std::string& data) {
  return page_with(data, "'none'");
}

std::string live_page() {
  return page_with("null", "'self'");
}

}  // namespace lockstep::runtime
