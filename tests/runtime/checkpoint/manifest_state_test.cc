#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "core/hash.h"
#include "runtime/checkpoint/manifest.h"

namespace lockstep::runtime {
namespace {

using ::testing::HasSubstr;

CheckpointState sample_state() {
  CheckpointState state;
  state.step = 120;
  state.decision.applied_steps = 117;
  state.decision.spike_guard.losses = {3.1, 2.0 / 3.0, 1e-300};
  state.decision.spike_guard.norms = {0.1, 5e-324, 1.7976931348623157e308};
  state.decision.spike_guard.spike_losses = {7.5};
  state.decision.spike_guard.spike_norms = {1.0 / 3.0};
  state.decision.vanishing = true;
  state.decision.rollbacks = {{50, 77, 77}, {100, 110, 112}};
  state.world_size = 2;
  return state;
}

// The manifest's text after `change`, sealed again.
template <typename Change>
std::string altered(const Change& change) {
  auto json = nlohmann::ordered_json::parse(manifest_text(sample_state(), {}));
  change(json);
  json.erase("xxh3");
  json["xxh3"] = core::to_hex(core::hash64(json.dump(2)));
  return json.dump(2) + "\n";
}

TEST(ManifestState, TheDecisionStateGoesRoundBitForBit) {
  CheckpointState state = sample_state();
  EXPECT_EQ(parse_manifest(manifest_text(state, {}), "m").state.decision, state.decision);
  state.decision.clip = {ClipMode::kZClip, 30, 2.0 / 3.0, 5e-324};
  EXPECT_EQ(parse_manifest(manifest_text(state, {}), "m").state.decision, state.decision);
  state.decision.clip = {ClipMode::kAdaGc, 30, 0.0, 0.0};
  state.decision.clip_references = {1e-300, 2.0 / 3.0, 0.0};
  EXPECT_EQ(parse_manifest(manifest_text(state, {}), "m").state.decision, state.decision);
}

// Written before there was a spike guard.
TEST(ManifestState, WithoutASpikeGuardTheWindowStartsEmpty) {
  const std::string text = altered([](auto& json) {
    for (const char* key : {"spike_guard", "vanishing", "rollbacks"})
      json["decision"].erase(key);
  });
  const DecisionState found = parse_manifest(text, "m").state.decision;
  DecisionState expected = sample_state().decision;
  expected.spike_guard = {};
  expected.vanishing = false;
  expected.rollbacks = {};
  EXPECT_EQ(found, expected);
}

TEST(ManifestState, AnImpossibleWindowIsRefused) {
  const auto refused = [](const std::string& text) {
    try {
      parse_manifest(text, "m");
      ADD_FAILURE() << "accepted";
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    }
  };
  refused(altered([](auto& json) { json["decision"]["spike_guard"]["losses"] = {1.0}; }));
  refused(altered([](auto& json) { json["decision"]["spike_guard"]["losses"][0] = nullptr; }));
  refused(altered([](auto& json) {
    const std::vector<double> many(kSpikeWindow + 1, 1.0);
    json["decision"]["spike_guard"] = {{"losses", many}, {"norms", many}};
  }));
  refused(altered([](auto& json) { json["decision"]["rollbacks"][0]["last"] = 3; }));
}

}  // namespace
}  // namespace lockstep::runtime
