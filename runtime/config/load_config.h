#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/config/config.h"

namespace lockstep::runtime {

// Reads a YAML (or JSON) file, applies overrides ("optimizer.learning_rate=1e-3", in order, the
// last one wins; the value is read as YAML; "key=null" takes a key out of the file), fills in every
// default, makes paths absolute and checks everything. Throws core::Error(kConfig) with all
// problems found, one per line: file:line:column, the key's path, what was found, what is legal,
// the nearest key.
Config load_config(const std::filesystem::path& file,
                   const std::vector<std::string>& overrides = {});

// The same from text; `source` is the file name used in messages (and for the default run.name).
Config parse_config(std::string_view text, const std::string& source,
                    const std::vector<std::string>& overrides = {});

}  // namespace lockstep::runtime
