#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lockstep::coordinator {

// What a YAML text has that no configuration needs and that makes reading it costly: more than
// `max_depth` levels, or an anchor or alias ("LINE:COLUMN: ..."), in its first document. Nothing
// for a text without. A text that is no YAML is not judged: the reader of configurations says so
// better.
std::optional<std::string> yaml_over_limit(std::string_view text, int max_depth);

}  // namespace lockstep::coordinator
