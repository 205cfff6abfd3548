// Every kind of finding: a history that provokes it, and a healthy twin that must not.
#include "runtime/health/doctor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/config/load_config.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

constexpr int kSteps = 400;

Config config_of(const std::vector<std::string>& overrides = {}) {
  return parse_config(
      "model: {layers: 4, heads: 2, width: 32, context: 8, vocab: 32}\n"
      "data: {train: tokens.bin}\n"
      "batch: {global: 8, micro: 4}\n"
      "train: {steps: 400}\n"
      "optimizer: {learning_rate: 1e-3}\n",
      "test.yaml", overrides);
}

LayerReport layers_at(std::int64_t step) {
  LayerReport line;
  line.step = step;
  line.advised_loss_scale = 4096;
  line.fp16_underflow_share = 0.01;
  line.fp16_overflow_share = 0.0;
  for (const char* name : {"embeddings", "block.0", "block.1", "block.2", "block.3", "head"}) {
    Measured m;
    m.name = name;
    m.grad_norm = 0.5;
    m.weight_norm = 10.0;
    m.update_ratio = 2e-3;
    m.fp16_underflow_share = 0.01;
    if (std::string(name).starts_with("block")) m.dead_share = 0.02;
    line.layers.push_back(m);
  }
  return line;
}

// A loss that falls from 4 towards 2 with the noise of batches, a norm around 0.8, one clipped step
// in ten, lines of two even ranks.
RunHistory healthy(const std::vector<std::string>& overrides = {}) {
  RunHistory h;
  h.directory = "runs/x";
  h.config = config_of(overrides);
  h.ranks = 2;
  std::mt19937 random(3);
  std::normal_distribution<double> noise(0.0, 1.0);
  for (std::int64_t step = 1; step <= kSteps; ++step) {
    StepPoint p;
    p.step = step;
    p.outcome = "applied";
    p.loss = 2.0 + 2.0 * std::exp(-static_cast<double>(step) / 150.0) + 0.02 * noise(random);
    p.grad_norm = 0.8 + 0.05 * noise(random) + (step % 10 == 0 ? 0.4 : 0.0);
    p.clip_coefficient = std::min(1.0, 1.0 / p.grad_norm);
    p.learning_rate = 1e-3;
    p.tokens = 64;
    p.step_seconds = 0.1;
    h.steps.push_back(p);
    if (step % 10 == 0) {
      h.layers.push_back(layers_at(step));
      h.timings.push_back({step, {1e-4, 1e-4}, {0.095, 0.094}, {2e-3, 3e-3}});
    }
    if (step % 40 == 0) h.validations.push_back({step, p.loss + 0.1});
  }
  h.peak_bytes = 100.0 * 1048576.0;
  return h;
}

using Spoil = std::function<void(RunHistory&)>;

struct Case {
  std::string kind;
  std::string variant;
  Spoil spoil;
  std::string advice;  // that must be among the changes
  std::vector<std::string> layers{};
  std::vector<std::string> overrides{};  // of the healthy twin too
  Spoil calm{};                          // what the healthy twin has instead
  bool info = false;
};

void set_layer(RunHistory& h, const std::string& name, double Measured::*statistic, double value) {
  for (LayerReport& line : h.layers) {
    for (Measured& m : line.layers) {
      if (m.name == name) m.*statistic = value;
    }
  }
}

void each_step(RunHistory& h, const std::function<void(StepPoint&)>& change) {
  for (StepPoint& point : h.steps)
    change(point);
}

void skip(StepPoint& p, const std::string& outcome) {
  p.outcome = outcome;
  p.clip_coefficient = Measured::kNothing;
  if (outcome != "spike") p.grad_norm = Measured::kNothing;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"vanishing_gradients",
       "PostNorm",
       [](RunHistory& h) {
         set_layer(h, "block.0", &Measured::grad_norm, 1e-4);
         set_layer(h, "block.1", &Measured::grad_norm, 4e-3);
       },
       "model.norm_position=pre",
       {"block.0", "block.1"},
       {"model.norm_position=post"},
       [](RunHistory& h) { set_layer(h, "block.0", &Measured::grad_norm, 0.06); }},
      {"vanishing_gradients", "WholeGradient",
       [](RunHistory& h) {
         h.health.push_back({300, "vanishing_norm", ""});
       },
       "optimizer.learning_rate=0.0001"},
      {"vanishing_gradients",
       "UnderflowInFp16",
       [](RunHistory& h) { set_layer(h, "block.2", &Measured::fp16_underflow_share, 0.6); },
       "precision.loss_scale.initial=4096",
       {"block.2"},
       {"precision.compute=fp16"}},
      {"exploding_gradients",
       "Grows",
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) {
           p.grad_norm = 0.2 * std::exp(static_cast<double>(p.step) / 60.0);
           p.clip_coefficient = 1.0;
         });
       },
       "clip.mode=global_norm",
       {},
       {"clip.mode=none"}},
      {"not_finite", "Diverged", [](RunHistory& h) { skip(h.steps.back(), "diverged"); },
       "health.on_divergence=rollback"},
      {"not_finite",
       "OverflowWithoutScaling",
       [](RunHistory& h) {
         skip(h.steps[200], "overflow");
         h.steps[200].overflow_bucket = "block.3";
       },
       "",
       {"block.3"}},
      {"dead_units",
       "Relu",
       [](RunHistory& h) {
         set_layer(h, "block.1", &Measured::dead_share, 0.7);
         set_layer(h, "block.3", &Measured::dead_share, 0.4);
       },
       "model.activation=gelu",
       {"block.1", "block.3"},
       {"model.activation=relu"},
       [](RunHistory& h) { set_layer(h, "block.1", &Measured::dead_share, 0.1); }},
      {"loss_spikes",
       "GuardFoundOne",
       [](RunHistory& h) {
         skip(h.steps[149], "spike");
         h.health.push_back({150, "spike", "block.2.mlp.up.weight"});
       },
       "health.on_divergence=skip",
       {"block.2"}},
      {"loss_spikes",
       "GuardIsOff",
       [](RunHistory& h) { h.steps[250].loss = 6.0; },
       "clip.mode=zclip",
       {},
       {"health.spike_factor=0"}},
      {"oscillation", "UpAndDownByTurns",
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) { p.loss += p.step % 2 == 0 ? 0.1 : -0.1; });
       },
       "optimizer.learning_rate=0.0003333333333333333"},
      {"plateau", "NeverLeft",
       [](RunHistory& h) {
         each_step(
             h, [](StepPoint& p) { p.loss = 3.9 + 0.003 * static_cast<double>(p.step % 7) / 7.0; });
       },
       "optimizer.learning_rate=0.01"},
      {"overfitting", "ValidationRises",
       [](RunHistory& h) {
         for (std::size_t i = 5; i < h.validations.size(); ++i)
           h.validations[i].loss = h.validations[4].loss + 0.1 * static_cast<double>(i - 4);
       },
       "train.steps=200"},
      {"clipping_always",
       "LowThreshold",
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) { p.clip_coefficient = 0.01 / p.grad_norm; });
       },
       "clip.mode=zclip",
       {},
       {"clip.threshold=0.01"},
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) { p.clip_coefficient = p.step % 3 == 0 ? 0.4 : 1.0; });
       }},
      {"clipping_never",
       "HighThreshold",
       [](RunHistory& h) { each_step(h, [](StepPoint& p) { p.clip_coefficient = 1.0; }); },
       "",
       {},
       {"clip.threshold=1000"},
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) { p.clip_coefficient = p.step == 9 ? 0.9 : 1.0; });
       },
       true},
      {"loss_scale_thrash",
       "GrowsTooSoon",
       [](RunHistory& h) {
         for (std::size_t i = 20; i < h.steps.size(); i += 12) {
           skip(h.steps[i], "overflow");
           h.steps[i].overflow_bucket = "head";
         }
       },
       "precision.loss_scale.growth_interval=2000",
       {"head"},
       {"precision.compute=fp16", "precision.loss_scale.growth_interval=10"},
       [](RunHistory& h) {
         for (std::size_t i = 0; i < 6; ++i)
           skip(h.steps[i], "overflow");  // finding the first scale
       }},
      {"loss_scale_sinking",
       "ToTheMinimum",
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) {
           p.loss_scale = std::max(1.0, 65536.0 * std::exp2(-static_cast<double>(p.step / 20)));
         });
       },
       "precision.compute=bf16",
       {},
       {"precision.compute=fp16"},
       [](RunHistory& h) { each_step(h, [](StepPoint& p) { p.loss_scale = 1024.0; }); }},
      {"learning_rate_too_high", "LossRises",
       [](RunHistory& h) {
         each_step(h, [](StepPoint& p) {
           if (p.step > 200) p.loss += 0.01 * static_cast<double>(p.step - 200);
         });
       },
       "optimizer.learning_rate=0.0003333333333333333"},
      {"learning_rate_too_high", "WeightsAreRewritten",
       [](RunHistory& h) {
         for (int b = 0; b < 4; ++b)
           set_layer(h, "block." + std::to_string(b), &Measured::update_ratio, 0.6);
       },
       "schedule.warmup_steps=20"},
      {"learning_rate_too_low", "NothingMoves",
       [](RunHistory& h) {
         for (int b = 0; b < 4; ++b)
           set_layer(h, "block." + std::to_string(b), &Measured::update_ratio, 1e-6);
         each_step(h, [](StepPoint& p) { p.loss = 4.0 - 1e-4 * static_cast<double>(p.step); });
       },
       "optimizer.learning_rate=1.024"},
      {"slow_data", "DiskAtItsLimit",
       [](RunHistory& h) {
         for (TimingPoint& t : h.timings)
           t.data = {0.05, 0.06};
       },
       "data.order=sequential"},
      {"slow_rank", "OneOfTwo",
       [](RunHistory& h) {
         for (TimingPoint& t : h.timings)
           t.compute = {0.095, 0.15};
       },
       "backend.threads=1"},
      {"memory_near_limit",
       "Peak",
       [](RunHistory& h) { h.peak_bytes = 198.0 * 1048576.0; },
       "batch.micro=2",
       {},
       {"memory.limit_mib=200"}},
  };
  return all;
}

const Finding* find(const std::vector<Finding>& findings, const std::string& kind) {
  for (const Finding& finding : findings) {
    if (finding.kind == kind) return &finding;
  }
  return nullptr;
}

class FindingTest : public ::testing::TestWithParam<Case> {};

TEST_P(FindingTest, ProvokedIsFoundAndItsTwinIsNot) {
  const Case& c = GetParam();
  RunHistory twin = healthy(c.overrides);
  if (c.calm) c.calm(twin);
  EXPECT_EQ(find(diagnose(twin), c.kind), nullptr) << "in the healthy twin";

  RunHistory ill = healthy(c.overrides);
  c.spoil(ill);
  const std::vector<Finding> findings = diagnose(ill);
  const Finding* const found = find(findings, c.kind);
  ASSERT_NE(found, nullptr) << to_text(ill, findings);
  EXPECT_EQ(found->severity == Severity::kInfo, c.info);
  if (!c.layers.empty()) {
    EXPECT_EQ(found->layers, c.layers);
  }
  EXPECT_GT(found->first_step, 0);
  EXPECT_LE(found->first_step, found->last_step);
  EXPECT_FALSE(found->evidence.empty());
  EXPECT_FALSE(found->causes.empty());
  EXPECT_FALSE(found->advice.empty());
  bool advised = c.advice.empty();
  for (const Advice& advice : found->advice) {
    advised = advised || advice.set == c.advice;
    // Every change is one that the configuration takes.
    std::vector<std::string> changed = c.overrides;
    if (!advice.set.empty()) changed.push_back(advice.set);
    EXPECT_NO_THROW(config_of(changed)) << advice.set;
  }
  EXPECT_TRUE(advised) << "expected " << c.advice << " in\n" << to_text(ill, findings);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FindingTest, ::testing::ValuesIn(cases()),
                         [](const auto& each) { return each.param.kind + each.param.variant; });

TEST(DoctorTest, EveryKindHasACase) {
  std::set<std::string> provoked;
  for (const Case& c : cases())
    provoked.insert(c.kind);
  EXPECT_EQ(provoked, std::set<std::string>(finding_kinds().begin(), finding_kinds().end()));
}

TEST(DoctorTest, NothingIsWrongWithAHealthyRunOrOneThatHasJustBegun) {
  EXPECT_TRUE(diagnose(healthy()).empty()) << to_text(healthy(), diagnose(healthy()));
  EXPECT_TRUE(diagnose(healthy({"precision.compute=fp16"})).empty());
  RunHistory young;
  young.config = config_of();
  EXPECT_TRUE(diagnose(young).empty());
  EXPECT_NE(to_text(young, {}).find("nothing wrong"), std::string::npos);
  for (std::size_t steps = 1; steps < 60; ++steps) {
    RunHistory part = healthy();
    part.steps.resize(steps);
    part.layers.resize(steps / 10);
    part.timings.resize(steps / 10);
    part.validations.resize(steps / 40);
    EXPECT_TRUE(diagnose(part).empty()) << steps << "\n" << to_text(part, diagnose(part));
  }
}

TEST(DoctorTest, WorstFirstWithTheReplayBundleAndTheFieldsOfTheFormat) {
  RunHistory h = healthy();
  for (TimingPoint& t : h.timings)
    t.compute = {0.095, 0.15};
  skip(h.steps.back(), "diverged");
  h.replays = {12, 400};
  const auto findings = diagnose(h);
  const auto json = nlohmann::ordered_json::parse(to_json(h, findings));
  ASSERT_GE(json["findings"].size(), 2U);
  const auto& first = json["findings"][0];
  std::vector<std::string> names;
  for (const auto& [name, value] : first.items())
    names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"kind", "severity", "steps", "layers", "evidence",
                                             "causes", "advice", "replay"}));
  EXPECT_EQ(first["kind"], "not_finite");
  EXPECT_EQ(first["severity"], "error");
  EXPECT_EQ(first["steps"], (nlohmann::ordered_json{400, 400}));
  EXPECT_EQ(first["replay"], "runs/x/replay/step-00000400");
  EXPECT_TRUE(first["advice"][0]["set"].is_string());
  EXPECT_TRUE(first["advice"][0]["why"].is_string());
  EXPECT_EQ(json["findings"].back()["severity"], "warning");
}

TEST(RunHistoryTest, SaysWhatItCannotRead) {
  const testing::TemporaryDirectory directory;
  const std::string run = directory.path().string();
  const auto message = [&]() -> std::string {
    try {
      read_run_history(run);
    } catch (const core::Error& error) {
      EXPECT_EQ(error.kind(), core::ErrorKind::kData);
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message().find("no config.yaml"), std::string::npos) << message();
  directory.write("config.yaml",
                  "model: {layers: 1, heads: 1, width: 32, context: 8, vocab: 32}\n"
                  "data: {train: tokens.bin}\nbatch: {global: 8, micro: 4}\ntrain: {steps: 4}\n"
                  "optimizer: {learning_rate: 1e-3}\n");
  EXPECT_NE(message().find("metrics.jsonl"), std::string::npos) << message();
  directory.write("metrics.jsonl", "{\"event\":\"run\",\"ranks\":3}\n{\"event\":\n");
  EXPECT_NE(message().find("metrics.jsonl:2"), std::string::npos) << message();
  // A last line that is being written is none yet.
  directory.write("metrics.jsonl", "{\"event\":\"run\",\"ranks\":3}\n{\"event\":\"st");
  EXPECT_EQ(message(), "");
  EXPECT_EQ(read_run_history(run).ranks, 3);
}

}  // namespace
}  // namespace lockstep::runtime
