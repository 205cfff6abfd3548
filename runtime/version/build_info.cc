#include "runtime/version/build_info.h"

#include <fmt/format.h>
#include <mpi.h>
#include <oneapi/dnnl/dnnl.h>
#include <spdlog/version.h>
#include <xxhash.h>

#include <nlohmann/json.hpp>

#include "core/build_config.h"
#include "runtime/git_commit.h"
#include "runtime/version/built_instruction_sets.h"

namespace lockstep::runtime {
namespace {

// "Open MPI v4.1.4, package: ..." without what follows the first comma. Legal before MPI_Init.
std::string mpi_version() {
  std::string text(MPI_MAX_LIBRARY_VERSION_STRING, '\0');
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "unknown";
  text.resize(static_cast<std::size_t>(length));
  text = text.substr(0, text.find(','));
  const std::string name = "Open MPI v";
  return text.starts_with(name) ? text.substr(name.size()) : text;
}

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

// From packed decimal digits: 90100 -> 9.1.0.
std::string unpack(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.version = core::kVersion;
  info.commit = kGitCommit;
  info.compiler = core::kCompiler;
  info.build_type = core::kBuildType;
  info.flags = core::kBuildFlags;
  for (const char* const* name = kBuiltInstructionSets; *name != nullptr; ++name) {
    info.instruction_sets.emplace_back(*name);
  }
  info.libraries = {
      {"oneDNN", onednn_version()},
      {"Open MPI", mpi_version()},
      {"OpenMP", fmt::format("{}", _OPENMP)},
      {"yaml-cpp", LOCKSTEP_YAML_CPP_VERSION},
      {"fmt", unpack(FMT_VERSION)},
      {"spdlog", fmt::format("{}.{}.{}", SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH)},
      {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                    NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"xxHash", unpack(static_cast<int>(XXH_versionNumber()))},
      {"CLI11", LOCKSTEP_CLI11_VERSION},
  };
  return info;
}

}  // namespace lockstep::runtime
