#include "runtime/replay/replay_bundle.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/hash.h"
#include "core/input_file.h"
#include "core/json_number.h"
#include "runtime/checkpoint/checkpoint_directory.h"
#include "runtime/config/load_config.h"
#include "runtime/files/sealed_json.h"
#include "runtime/version/build_info.h"

namespace lockstep::runtime {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "lockstep replay bundle";

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw core::Error(core::ErrorKind::kData, fmt::format("{}: {}", path, what));
}

// nlohmann writes what is not finite as null.
double number(const Json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

std::int64_t count_in(const Json& json, const char* field) {
  return core::whole_number<std::int64_t>(json.at(field), 0);
}

Json rank_json(const RecordedRank& rank) {
  Json json = {{"loss_sum", rank.loss_sum},
               {"tokens", rank.counted},
               {"nonfinite_losses", rank.nonfinite_losses},
               {"nonfinite_layer", rank.nonfinite_layer},
               {"sum_of_squares", rank.sum_of_squares},
               {"own_nonfinite", nullptr}};
  if (!rank.own.bucket.empty()) {
    json["own_nonfinite"] = {{"bucket", rank.own.bucket},
                             {"tensor", rank.own.tensor},
                             {"inf", rank.own.inf},
                             {"nan", rank.own.nan}};
  }
  return json;
}

RecordedRank parse_rank(const Json& json) {
  RecordedRank rank;
  rank.loss_sum = number(json.at("loss_sum"));
  rank.counted = count_in(json, "tokens");
  rank.nonfinite_losses = count_in(json, "nonfinite_losses");
  rank.nonfinite_layer = core::whole_number<std::int64_t>(json.at("nonfinite_layer"), -1, 1 << 20);
  rank.sum_of_squares = number(json.at("sum_of_squares"));
  const Json& own = json.at("own_nonfinite");
  if (!own.is_null()) {
    rank.own = {own.at("bucket").get<std::string>(), own.at("tensor").get<std::string>(),
                count_in(own, "inf"), count_in(own, "nan")};
  }
  return rank;
}

ReplayRecord parse_record(const Json& json) {
  ReplayRecord record;
  record.step = count_in(json, "step");
  record.data_position = count_in(json, "data_position");
  record.outcome = json.at("outcome").get<std::string>();
  record.stopped = json.at("stopped").get<bool>();
  record.loss_scale = json.at("loss_scale").get<double>();
  if (!(record.loss_scale > 0.0)) {
    throw core::Error(core::ErrorKind::kData,
                      "a loss scale is above 0, found " + json.at("loss_scale").dump());
  }
  record.learning_rate = json.at("learning_rate").get<double>();
  record.loss = number(json.at("loss"));
  record.grad_norm = number(json.at("grad_norm"));
  record.counted = count_in(json, "tokens");
  record.config_fingerprint = core::parse_hex64(json.at("config_fingerprint").get<std::string>());
  record.build = json.at("build").get<std::string>();
  for (const Json& rank : json.at("ranks"))
    record.ranks.push_back(parse_rank(rank));
  return record;
}

Json parse_sealed(const std::string& path) {
  const std::string text = core::read_text(path);
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("format") ||
      json["format"] != kFormat) {
    fail(path, "expected the manifest of a replay bundle, found something else");
  }
  const Json version = json.value("version", Json());
  if (version != kReplayVersion) {
    fail(path, fmt::format("expected version {}, found {}: it was written by another version of "
                           "Lockstep",
                           kReplayVersion, version.dump()));
  }
  if (!is_sealed(json, text)) fail(path, "torn or altered: its own hash does not fit");
  return json;
}

// The bundles of a run whose directory was given in place of one of them.
std::string bundles_below(const std::string& directory) {
  std::string text;
  for (const char* below : {"", "/replay"}) {
    if (!std::filesystem::is_directory(directory + below)) continue;
    for (const std::string& name : list_entries(directory + below)) {
      const std::string path = directory + below + "/" + name;
      std::error_code ignored;
      if (step_of_name(name) && std::filesystem::exists(path + "/" + kReplayWeightsFile, ignored)) {
        text += "; it holds the bundle " + path;
      }
    }
  }
  return text;
}

ManifestFile parse_file(const Json& list, const std::string& name) {
  for (const Json& entry : list) {
    if (entry.at("name") != name) continue;
    return {name, core::whole_number<std::uint64_t>(entry.at("bytes")),
            core::parse_hex64(entry.at("xxh3").get<std::string>())};
  }
  throw core::Error(core::ErrorKind::kData, "lists no file " + name);
}

std::vector<ManifestFile> parse_files(const Json& list) {
  return {parse_file(list, kReplayWeightsFile), parse_file(list, kReplayBatchFile),
          parse_file(list, kConfigFile)};
}

void check_file(const std::string& directory, const ManifestFile& listed) {
  const std::string path = directory + "/" + listed.name;
  const ManifestFile found = describe_file(directory, listed.name);
  if (found.bytes != listed.bytes)
    fail(path, fmt::format("torn: expected {} bytes, found {}", listed.bytes, found.bytes));
  if (found.hash != listed.hash)
    fail(path, "altered: its contents do not fit the hash in the manifest");
}

}  // namespace

std::string replay_build() {
  const BuildInfo info = build_info();
  return info.version + " " + info.commit;
}

std::string replay_manifest_text(const ReplayRecord& record,
                                 const std::vector<ManifestFile>& files) {
  Json json = {{"format", kFormat},
               {"version", kReplayVersion},
               {"build", record.build},
               {"step", record.step},
               {"data_position", record.data_position},
               {"outcome", record.outcome},
               {"stopped", record.stopped},
               {"loss_scale", record.loss_scale},
               {"learning_rate", record.learning_rate},
               {"loss", record.loss},
               {"grad_norm", record.grad_norm},
               {"tokens", record.counted},
               {"config_fingerprint", core::to_hex(record.config_fingerprint)},
               {"ranks", Json::array()},
               {"files", Json::array()}};
  for (const RecordedRank& rank : record.ranks)
    json["ranks"].push_back(rank_json(rank));
  for (const ManifestFile& file : files) {
    json["files"].push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"xxh3", core::to_hex(file.hash)}});
  }
  return sealed_text(std::move(json));
}

ReplayBundle read_replay_bundle(const std::string& directory) {
  const std::string path = directory + "/" + kManifestFile;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    fail(directory, fmt::format("expected a replay bundle, found no {} in it{}", kManifestFile,
                                bundles_below(directory)));
  }
  ReplayBundle bundle;
  bundle.directory = directory;
  const Json json = parse_sealed(path);
  std::vector<ManifestFile> files;
  try {
    bundle.record = parse_record(json);
    files = parse_files(json.at("files"));
  } catch (const nlohmann::json::exception& failure) {
    fail(path, fmt::format("not a whole manifest: {}", failure.what()));
  } catch (const core::Error& failure) {
    fail(path, fmt::format("not a whole manifest: {}", failure.what()));
  }
  for (const ManifestFile& file : files)
    check_file(directory, file);
  try {
    bundle.config = load_config(directory + "/" + kConfigFile);
  } catch (const core::Error& failure) {
    fail(directory, fmt::format("its configuration is not one of this version of Lockstep: {}",
                                failure.what()));
  }
  const BatchConfig& batch = bundle.config.batch;
  const int ranks = bundle.record.world_size();
  if (ranks == 0 || batch.global % (batch.micro * ranks) != 0) {
    fail(path, fmt::format("{} ranks cannot have shared the {} micro-batches of its configuration",
                           ranks, batch.global / batch.micro));
  }
  return bundle;
}

}  // namespace lockstep::runtime
