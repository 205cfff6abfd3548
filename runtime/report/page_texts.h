#pragma once

#include <string_view>

namespace lockstep::runtime {

// Files built into the program (cmake/EmbedTexts.cmake): those of report/page/, and dygraphs.
extern const std::string_view kPageHtml;
extern const std::string_view kPageCss;
extern const std::string_view kPageJs;
extern const std::string_view kDygraphCss;
extern const std::string_view kDygraphJs;

}  // namespace lockstep::runtime
