#include "runtime/checkpoint/manifest.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/hash.h"
#include "core/input_file.h"
#include "core/json_number.h"
#include "runtime/files/sealed_json.h"

namespace lockstep::runtime {

namespace {

using Json = nlohmann::ordered_json;
using core::whole_number;

constexpr int kMostRanks = 1 << 20;

std::int64_t count_in(const Json& json, const char* field) {
  return whole_number<std::int64_t>(json.at(field), 0);
}

// Of the modes that have a state.
Json clip_json(const DecisionState& d) {
  const ClipState& clip = d.clip;
  if (clip.mode == ClipMode::kZClip) {
    return {
        {"mode", "zclip"}, {"seen", clip.seen}, {"mean", clip.mean}, {"variance", clip.variance}};
  }
  return {{"mode", "adagc"}, {"seen", clip.seen}, {"references", d.clip_references}};
}

void parse_clip(const Json& json, DecisionState& d) {
  const auto mode = json.at("mode").get<std::string>();
  d.clip.seen = count_in(json, "seen");
  if (mode == "zclip") {
    d.clip.mode = ClipMode::kZClip;
    d.clip.mean = json.at("mean").get<double>();
    d.clip.variance = json.at("variance").get<double>();
  } else if (mode == "adagc") {
    d.clip.mode = ClipMode::kAdaGc;
    d.clip_references = json.at("references").get<std::vector<double>>();
  } else {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("clip: expected mode zclip or adagc, found {}", mode));
  }
}

Json decision_json(const DecisionState& d) {
  Json json = {
      {"loss_scale",
       {{"scale", d.loss_scale.scale}, {"good", d.loss_scale.good}, {"left", d.loss_scale.left}}},
      {"applied_steps", d.applied_steps},
      {"skips_in_a_row", d.skips_in_a_row},
      {"overflows_at_minimum_in_a_row", d.overflows_at_minimum_in_a_row},
      {"spike_guard",
       {{"losses", d.spike_guard.losses.values()},
        {"norms", d.spike_guard.norms.values()},
        {"spike_losses", d.spike_guard.spike_losses.values()},
        {"spike_norms", d.spike_guard.spike_norms.values()}}},
      {"vanishing", d.vanishing},
      {"rollbacks", Json::parse(rollbacks_text(d.rollbacks))}};
  if (is_adaptive(d.clip.mode)) json["clip"] = clip_json(d);
  return json;
}

// Losses and norms of the same steps, by the names of their fields.
template <std::size_t kMost>
void parse_windows(const Json& json, const std::string& of, ValueWindow<kMost>& losses,
                   ValueWindow<kMost>& norms) {
  const auto all_losses = json.at(of + "losses").get<std::vector<double>>();
  const auto all_norms = json.at(of + "norms").get<std::vector<double>>();
  if (all_losses.size() != all_norms.size() || all_losses.size() > kMost) {
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("spike_guard: expected as many {0}losses as {0}norms, at most {1}, found "
                    "{2} and {3}; use another checkpoint",
                    of, kMost, all_losses.size(), all_norms.size()));
  }
  for (std::size_t i = 0; i < all_losses.size(); ++i) {
    losses.push(all_losses[i]);
    norms.push(all_norms[i]);
  }
}

SpikeGuardState parse_spike_guard(const Json& json) {
  SpikeGuardState guard;
  parse_windows(json, "", guard.losses, guard.norms);
  // Manifests of before levels were told from spikes lack these.
  if (json.contains("spike_losses"))
    parse_windows(json, "spike_", guard.spike_losses, guard.spike_norms);
  return guard;
}

DecisionState parse_decision(const Json& json) {
  DecisionState d;
  const Json& scale = json.at("loss_scale");
  d.loss_scale = {scale.at("scale").get<double>(), count_in(scale, "good"),
                  whole_number<std::int64_t>(scale.at("left"))};
  d.applied_steps = count_in(json, "applied_steps");
  d.skips_in_a_row = count_in(json, "skips_in_a_row");
  d.overflows_at_minimum_in_a_row = count_in(json, "overflows_at_minimum_in_a_row");
  // Manifests of before there was a spike guard lack the rest: its window then starts empty.
  if (json.contains("spike_guard")) d.spike_guard = parse_spike_guard(json["spike_guard"]);
  if (json.contains("clip")) parse_clip(json["clip"], d);
  if (json.contains("vanishing")) d.vanishing = json["vanishing"].get<bool>();
  if (json.contains("rollbacks")) d.rollbacks = parse_rollbacks(json["rollbacks"].dump());
  return d;
}

Json training_files_json(const std::vector<DataFingerprint>& files) {
  Json list = Json::array();
  for (const DataFingerprint& file : files) {
    list.push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"sampled_xxh3", core::to_hex(file.hash)}});
  }
  return list;
}

std::uint64_t parse_hash(const Json& json) {
  return core::parse_hex64(json.get<std::string>());
}

Json files_json(const std::vector<ManifestFile>& files) {
  Json list = Json::array();
  for (const ManifestFile& file : files) {
    list.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", core::to_hex(file.hash)}});
  }
  return list;
}

std::vector<ManifestFile> parse_files(const Json& json) {
  std::vector<ManifestFile> files;
  for (const Json& file : json) {
    files.push_back({file.at("name").get<std::string>(),
                     whole_number<std::uint64_t>(file.at("bytes")), parse_hash(file.at("xxh3"))});
    const std::string& name = files.back().name;
    if (name.empty() || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      throw core::Error(core::ErrorKind::kData, fmt::format("expected the name of a file, found {}",
                                                            file.at("name").dump()));
    }
  }
  return files;
}

std::string machine_type() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

ParsedManifest parse_fields(const Json& json) {
  ParsedManifest parsed;
  CheckpointState& state = parsed.state;
  state.step = count_in(json, "step");
  state.decision = parse_decision(json.at("decision"));
  state.position = {whole_number<std::uint64_t>(json.at("metrics_bytes")),
                    whole_number<std::uint64_t>(json.at("ledger_bytes")),
                    parse_hash(json.at("chain_head"))};
  state.config_fingerprint = parse_hash(json.at("config_fingerprint"));
  state.world_size = whole_number(json.at("world_size"), 1, kMostRanks);
  state.seed = whole_number<std::uint64_t>(json.at("seed"));
  state.data_position = count_in(json, "data_position");
  // Manifests of before lack it: their optimizer state has never begun anew.
  if (json.contains("optimizer_since")) {
    state.optimizer_since =
        whole_number<std::int64_t>(json["optimizer_since"], 0, state.decision.applied_steps);
  }
  state.tokenizer = json.at("tokenizer").is_null() ? "" : json.at("tokenizer").dump();
  for (const Json& file : json.at("training_files")) {
    state.training_files.push_back({file.at("name").get<std::string>(),
                                    whole_number<std::uint64_t>(file.at("bytes")),
                                    parse_hash(file.at("sampled_xxh3"))});
  }
  parsed.files = parse_files(json.at("files"));
  return parsed;
}

}  // namespace

std::string manifest_files_text(const std::vector<ManifestFile>& files) {
  return files_json(files).dump();
}

std::vector<ManifestFile> parse_manifest_files(const std::string& text) {
  return parse_files(Json::parse(text));
}

std::string manifest_text(const CheckpointState& state, const std::vector<ManifestFile>& files) {
  Json json;
  json["version"] = kCheckpointVersion;
  json["step"] = state.step;
  json["world_size"] = state.world_size;
  json["machine"] = machine_type();
  json["config_fingerprint"] = core::to_hex(state.config_fingerprint);
  json["seed"] = state.seed;
  json["data_position"] = state.data_position;
  json["optimizer_since"] = state.optimizer_since;
  json["decision"] = decision_json(state.decision);
  json["chain_head"] = core::to_hex(state.position.chain_head);
  json["metrics_bytes"] = state.position.metrics_bytes;
  json["ledger_bytes"] = state.position.ledger_bytes;
  json["tokenizer"] = state.tokenizer.empty() ? Json(nullptr) : Json::parse(state.tokenizer);
  json["training_files"] = training_files_json(state.training_files);
  json["files"] = files_json(files);
  return sealed_text(std::move(json));
}

ParsedManifest parse_manifest(const std::string& text, const std::string& path) {
  const auto fail = [&](const std::string& what) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: {}; use another checkpoint", path, what));
  };
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object())
    fail("expected a JSON object, found something else");
  if (!json.contains("version") || !json["version"].is_number_integer()) {
    fail("expected an integer field 'version'");
  }
  if (json["version"] != kCheckpointVersion) {
    fail(fmt::format("expected version {}, found {}: it was written by another version of Lockstep",
                     kCheckpointVersion, json["version"].dump()));
  }
  if (!is_sealed(json, text)) fail("torn or altered: its own hash does not fit");
  try {
    return parse_fields(json);
  } catch (const nlohmann::json::exception& failure) {
    fail(fmt::format("not a whole manifest: {}", failure.what()));
  } catch (const core::Error& failure) {
    fail(fmt::format("not a whole manifest: {}", failure.what()));
  }
  return {};
}

ManifestFile describe_file(const std::string& directory, const std::string& name) {
  const core::InputFile file(directory + "/" + name);
  return {name, file.size(), file.hash()};
}

}  // namespace lockstep::runtime
