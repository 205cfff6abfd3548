#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "runtime/simulate/cluster_spec.h"

namespace lockstep::launcher {

// Reads the description of a cluster (configs/clusters/*.yaml show every key). Error(kConfig) with
// all problems, one per line: file:line:column, key, what was found, what is legal.
runtime::ClusterSpec load_cluster(const std::filesystem::path& file);
runtime::ClusterSpec parse_cluster(std::string_view text, const std::string& source);

}  // namespace lockstep::launcher
