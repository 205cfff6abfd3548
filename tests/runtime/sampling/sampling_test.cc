#include "runtime/sampling/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "core/error.h"
#include "tests/support/tiny_checkpoint.h"

namespace lockstep::runtime {
namespace {

using lockstep::testing::TinyCheckpoint;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

core::Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const core::Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {core::ErrorKind::kInternal, ""};
}

struct Loaded {
  explicit Loaded(const std::string& path, int threads = 1)
      : manifest(find_checkpoint(path, log)),
        sampler(manifest, checkpoint_config(manifest), threads, memory) {}

  Ids generate(const Ids& prompt, const SampleOptions& options) {
    Ids ids;
    sampler.generate(prompt, options, [&](std::int32_t id) {
      ids.push_back(id);
      return true;
    });
    return ids;
  }

  core::Logger log{0, 1, core::LogLevel::kError};
  core::MemoryTracker memory;
  CheckpointManifest manifest;
  Sampler sampler;
};

SampleOptions options_of(std::int64_t tokens, double temperature, std::int64_t top_k = 0,
                         std::uint64_t seed = 1) {
  return {tokens, temperature, top_k, seed, 1.0, true};
}

TEST(ChooseToken, TemperatureZeroTakesTheGreatestAndTheLowestIdAmongEquals) {
  const std::array<float, 5> logits = {0.0F, 3.0F, -1.0F, 3.0F, 2.0F};
  for (std::int64_t position = 0; position < 20; ++position)
    EXPECT_EQ(choose_token(logits, options_of(1, 0.0), position), 1);
}

TEST(ChooseToken, DrawsAsOftenAsTheSoftmaxSays) {
  const std::array<float, 4> logits = {1.0F, 0.0F, 2.0F, -1.0F};
  constexpr double kTemperature = 0.7;
  constexpr std::int64_t kDraws = 20000;
  std::array<double, 4> counts{};
  for (std::int64_t position = 0; position < kDraws; ++position)
    counts[static_cast<std::size_t>(choose_token(logits, options_of(1, kTemperature), position))] +=
        1.0;
  double sum = 0.0;
  for (const float z : logits)
    sum += std::exp(z / kTemperature);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / kTemperature) / sum;
    const double deviation = std::sqrt(p * (1.0 - p) / kDraws);
    EXPECT_NEAR(counts[i] / kDraws, p, 5.0 * deviation) << "id " << i;
  }
}

TEST(ChooseToken, TopKKeepsTheKGreatest) {
  const std::array<float, 6> logits = {1.0F, 1.1F, 0.9F, 1.1F, 1.0F, 0.0F};
  const auto chosen = [&](std::int64_t k) {
    std::set<std::int32_t> ids;
    for (std::int64_t position = 0; position < 500; ++position)
      ids.insert(choose_token(logits, options_of(1, 1.0, k), position));
    return ids;
  };
  EXPECT_THAT(chosen(1), ElementsAre(1));
  EXPECT_THAT(chosen(2), ElementsAre(1, 3));
  EXPECT_THAT(chosen(3), ElementsAre(0, 1, 3));
  EXPECT_EQ(chosen(0).size(), 6U);
  EXPECT_EQ(chosen(100).size(), 6U);
}

TEST(ChooseToken, TopPKeepsTheFewestThatMakeUpTheShare) {
  const std::array<float, 4> logits = {std::log(0.1F), std::log(0.5F), std::log(0.3F),
                                       std::log(0.1F)};
  const auto chosen = [&](double p) {
    SampleOptions options = options_of(1, 1.0);
    options.top_p = p;
    std::set<std::int32_t> ids;
    for (std::int64_t position = 0; position < 500; ++position)
      ids.insert(choose_token(logits, options, position));
    return ids;
  };
  EXPECT_THAT(chosen(0.01), ElementsAre(1));
  EXPECT_THAT(chosen(0.49), ElementsAre(1));
  EXPECT_THAT(chosen(0.6), ElementsAre(1, 2));
  EXPECT_THAT(chosen(0.85), ElementsAre(0, 1, 2));
  EXPECT_EQ(chosen(1.0).size(), 4U);
}

TEST(ChooseToken, DependsOnSeedAndPositionAlone) {
  const std::array<float, 8> logits = {};
  const auto sequence = [&](std::uint64_t seed) {
    Ids ids;
    for (std::int64_t position = 0; position < 50; ++position)
      ids.push_back(choose_token(logits, options_of(1, 1.0, 0, seed), position));
    return ids;
  };
  EXPECT_EQ(sequence(1), sequence(1));
  EXPECT_NE(sequence(1), sequence(2));
  const Ids ids = sequence(1);
  EXPECT_GT(std::set<std::int32_t>(ids.begin(), ids.end()).size(), 4U);
}

TEST(ChooseToken, RefusesLogitsThatAreNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const std::array<float, 3> logits = {0.0F, bad, 1.0F};
    const core::Error error = error_of([&] { choose_token(logits, options_of(1, 0.0), 7); });
    EXPECT_EQ(error.kind(), core::ErrorKind::kDiverged);
    EXPECT_THAT(error.what(), HasSubstr("position 7"));
  }
}

TEST(Sampler, SameSeedSameTextAtAnyNumberOfThreads) {
  const TinyCheckpoint checkpoint;
  Loaded one(checkpoint.path());
  Loaded three(checkpoint.path(), 3);
  const Ids prompt = {72, 105};
  const Ids text = one.generate(prompt, options_of(24, 1.0));
  EXPECT_EQ(text.size(), 24U);
  EXPECT_EQ(one.generate(prompt, options_of(24, 1.0)), text);
  EXPECT_EQ(three.generate(prompt, options_of(24, 1.0)), text);
  EXPECT_NE(one.generate(prompt, options_of(24, 1.0, 0, 2)), text);
}

TEST(Sampler, TopKOfOneEqualsTemperatureZero) {
  const TinyCheckpoint checkpoint({"model.family=llama"});
  Loaded loaded(checkpoint.path());
  const Ids greedy = loaded.generate({1, 2, 3}, options_of(20, 0.0));
  EXPECT_EQ(loaded.generate({1, 2, 3}, options_of(20, 1.0, 1)), greedy);
  EXPECT_NE(loaded.generate({1, 2, 3}, options_of(20, 1.0)), greedy);
}

// What one call adds, a call for each token adds too: nothing but the tokens before matters.
TEST(Sampler, ATokenDependsOnTheTokensBeforeIt) {
  const TinyCheckpoint checkpoint;
  Loaded loaded(checkpoint.path());
  Ids tokens = {10, 20, 30};
  const Ids text = loaded.generate(tokens, options_of(20, 1.0));
  for (const std::int32_t expected : text) {
    const Ids next = loaded.generate(tokens, options_of(1, 1.0));
    EXPECT_THAT(next, ElementsAre(expected)) << "after " << tokens.size() << " tokens";
    tokens.push_back(expected);
  }
  EXPECT_GT(tokens.size(), 16U) << "the window slides";
}

TEST(WindowBegin, DropsTheOlderHalfWhenTheContextIsFull) {
  EXPECT_EQ(window_begin(16, 16), 0U);
  EXPECT_EQ(window_begin(17, 16), 8U);
  EXPECT_EQ(window_begin(24, 16), 8U);
  EXPECT_EQ(window_begin(25, 16), 16U);
  EXPECT_EQ(window_begin(9, 1), 8U);
  for (std::size_t tokens = 1; tokens < 100; ++tokens) {
    const std::size_t seen = tokens - window_begin(tokens, 7);
    EXPECT_TRUE(1 <= seen && seen <= 7) << tokens;
  }
}

TEST(Sampler, SeesTheTokensOfItsWindow) {
  const TinyCheckpoint checkpoint;
  Loaded loaded(checkpoint.path());
  Ids prompt;
  for (std::int32_t i = 0; i < 20; ++i)
    prompt.push_back(3 * i + 1);
  const Ids whole = loaded.generate(prompt, options_of(5, 0.0));
  const std::size_t begin = window_begin(prompt.size(), 16);
  bool seen = false;  // the first one of the window, and none before it
  for (std::int32_t other = 0; other < 256; other += 5) {
    Ids changed = prompt;
    changed[begin - 1] = other;
    EXPECT_EQ(loaded.generate(changed, options_of(1, 0.0)).front(), whole.front());
    changed = prompt;
    changed[begin] = other;
    seen = seen || loaded.generate(changed, options_of(1, 0.0)).front() != whole.front();
  }
  EXPECT_TRUE(seen);
}

TEST(Sampler, SameTextWithAndWithoutTheCache) {
  const std::vector<std::vector<std::string>> models = {
      {},
      {"model.family=llama", "model.kv_heads=1", "model.attention_window=[5]",
       "model.head_width=24"},
      {"model.family=llama", "model.qk_norm=true", "model.logit_softcap=5"},
      {"model.positions=sinusoidal", "model.norm_position=post", "model.residual_gate=scalar"}};
  for (const auto& overrides : models) {
    const TinyCheckpoint checkpoint(overrides);
    for (const int threads : {1, 2}) {
      Loaded loaded(checkpoint.path(), threads);
      SampleOptions options = options_of(60, 1.0);
      const Ids cached = loaded.generate({7, 8, 9}, options);
      options.cache = false;
      EXPECT_EQ(loaded.generate({7, 8, 9}, options), cached) << ::testing::PrintToString(overrides);
    }
  }
}

TEST(Sampler, ScoresWhatItWouldDraw) {
  const TinyCheckpoint checkpoint;
  Loaded loaded(checkpoint.path());
  const Ids tokens = {1, 2, 3, 4, 5};
  const std::vector<double> scores = loaded.sampler.score(tokens, 2);
  ASSERT_EQ(scores.size(), 3U);
  EXPECT_NEAR(loaded.sampler.score(Ids{1, 2, 3}, 2).front(), scores.front(), 1e-5);
  double sum = 0.0;  // of the probabilities of all that may follow
  for (std::int32_t id = 0; id < 256; ++id)
    sum += std::exp(loaded.sampler.score(Ids{1, 2, 3, 4, id}, 4).front());
  EXPECT_NEAR(sum, 1.0, 1e-5);
}

TEST(Sampler, StopsWhenTheSinkDoes) {
  const TinyCheckpoint checkpoint;
  Loaded loaded(checkpoint.path());
  int calls = 0;
  loaded.sampler.generate(Ids{1}, options_of(100, 1.0), [&](std::int32_t) { return ++calls < 3; });
  EXPECT_EQ(calls, 3);
}

// A vocabulary padded beyond the tokenizer's must not lead to ids that nothing can decode.
TEST(Sampler, ChoosesOnlyWhatTheTokenizerKnows) {
  const TinyCheckpoint checkpoint({"model.vocab=2048"});
  Loaded loaded(checkpoint.path());
  for (const std::int32_t id : loaded.generate({1}, options_of(60, 100.0)))
    EXPECT_LT(id, 256);
  const TinyCheckpoint bare({"model.vocab=2048"}, "");
  Loaded without(bare.path());
  EXPECT_EQ(without.sampler.tokenizer(), nullptr);
  EXPECT_THAT(without.generate({1}, options_of(60, 100.0)),
              ::testing::Contains(::testing::Ge(256)));
}

TEST(Sampler, SamplesFromHalfPrecisionRuns) {
  const TinyCheckpoint fp32;
  const TinyCheckpoint fp16({"precision.compute=fp16"});
  EXPECT_EQ(Loaded(fp16.path()).generate({1, 2}, options_of(12, 1.0)),
            Loaded(fp32.path()).generate({1, 2}, options_of(12, 1.0)));
}

TEST(Sampler, RefusesPromptsOutsideTheVocabulary) {
  const TinyCheckpoint checkpoint({"model.vocab=100"});
  Loaded loaded(checkpoint.path());
  for (const Ids& prompt : {Ids{}, Ids{1, 100}, Ids{-1}}) {
    const core::Error error = error_of([&] { loaded.generate(prompt, options_of(1, 0.0)); });
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    EXPECT_THAT(error.what(), HasSubstr(prompt.empty() ? "at least one token" : "[0, 100)"));
  }
}

TEST(Sampler, RefusesModelsThatDoNotPredictTheNextToken) {
  const TinyCheckpoint checkpoint;
  core::Logger log(0, 1, core::LogLevel::kError);
  core::MemoryTracker memory;
  const CheckpointManifest manifest = find_checkpoint(checkpoint.path(), log);
  Config config = checkpoint_config(manifest);
  config.model.family = models::Family::kBert;
  for (const auto& [task, reason] : {std::pair{models::Task::kMaskedLm, "both sides"},
                                     std::pair{models::Task::kClassification, "classifies"}}) {
    config.model.task = task;
    const core::Error error = error_of([&] { Sampler(manifest, config, 1, memory); });
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    EXPECT_THAT(error.what(), HasSubstr(reason));
  }
}

TEST(FindCheckpoint, OfARunTakesTheNewestWholeOne) {
  TinyCheckpoint checkpoint;
  checkpoint.save({}, TinyCheckpoint::kBytes, 2);
  core::Logger log(0, 1, core::LogLevel::kError);
  EXPECT_EQ(find_checkpoint(checkpoint.output(), log).state.step, 2);
  EXPECT_EQ(find_checkpoint(checkpoint.path(1), log).state.step, 1);
  std::filesystem::resize_file(checkpoint.path(2) + "/model.safetensors", 100);
  EXPECT_EQ(find_checkpoint(checkpoint.output(), log).state.step, 1);
  const core::Error torn = error_of([&] { find_checkpoint(checkpoint.path(2), log); });
  EXPECT_EQ(torn.kind(), core::ErrorKind::kData);
  EXPECT_THAT(torn.what(), HasSubstr("torn or altered"));
}

TEST(FindCheckpoint, SaysWhatIsMissing) {
  const TinyCheckpoint checkpoint;
  core::Logger log(0, 1, core::LogLevel::kError);
  const std::string place = (checkpoint.directory / "").string();
  std::filesystem::create_directories(place + "empty/checkpoints");
  const std::vector<std::pair<std::string, std::string>> table = {
      {place + "nowhere", "found nothing"},
      {place, "found neither manifest.json nor checkpoints/"},
      {place + "empty", "expected a whole checkpoint, found none"}};
  for (const auto& [path, message] : table) {
    const core::Error error = error_of([&] { find_checkpoint(path, log); });
    EXPECT_EQ(error.kind(), core::ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

}  // namespace
}  // namespace lockstep::runtime
