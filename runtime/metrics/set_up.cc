#include "runtime/metrics/set_up.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/hash.h"
#include "runtime/config/dump_config.h"
#include "runtime/version/build_info.h"

namespace lockstep::runtime {

namespace {

bool changes_no_bits(const FaultConfig& fault) {
  return fault.kind != FaultKind::kOverflow && fault.kind != FaultKind::kNan &&
         fault.kind != FaultKind::kBitflip;
}

}  // namespace

std::uint64_t hash_of_set_up(Config config, int ranks, int threads) {
  config.source.clear();
  config.run.name.clear();
  config.run.output.clear();
  config.run.time_limit = 0.0;
  config.data.train.clear();
  config.data.validation.clear();
  config.train.steps = 0;
  config.train.validate_every = 0;
  config.parallel.overlap = false;
  config.parallel.verify_every = 0;
  config.parallel.timeout_seconds = 0.0;
  config.backend.comm = CommChoice::kAuto;
  config.backend.threads = 0;
  config.memory = {};
  config.checkpoint = {};
  config.metrics = {};
  config.health.replay_bundles = 0;
  std::erase_if(config.fault, changes_no_bits);
  if (config.run.reproducible == Reproducible::kRanks) {
    config.parallel.zero_stage = 0;
    ranks = threads = 0;
  }
  const BuildInfo build = build_info();
  std::string text =
      fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n", build.version, build.commit, build.compiler,
                  build.build_type, build.flags, fmt::join(build.instruction_sets, " "));
  for (const auto& [name, version] : build.libraries)
    text += fmt::format("{} {}\n", name, version);
  return core::hash64(text + fmt::format("{} ranks, {} threads\n", ranks, threads) +
                      to_yaml(config));
}

}  // namespace lockstep::runtime
