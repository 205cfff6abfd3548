#pragma once

#include <filesystem>
#include <string>

#include "runtime/interchange/foreign_model.h"

namespace lockstep::runtime {

// A commented configuration that trains on from the weights in `directory`: every key of model:
// that differs from its family's default, each with the field it comes from, and starting points
// for the rest. Throws Error(kConfig) for dropouts that no one key can say.
std::string import_config(const ForeignModel& foreign, const std::filesystem::path& directory);

}  // namespace lockstep::runtime
