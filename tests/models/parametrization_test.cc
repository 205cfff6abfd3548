#include "models/parametrization.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "models/transformer.h"
#include "tests/support/model_fixture.h"

namespace lockstep::models {
namespace {

ModelConfig mup(Family family, std::int64_t width, std::int64_t base) {
  ModelConfig config = test::tiny_config(family);
  config.width = width;
  config.ffn_width = 0;
  config.parametrization = Parametrization::kMup;
  config.mup_base_width = base;
  derive_sizes(config);
  return config;
}

const ParameterSpec& spec_of(const ParameterTable& table, const std::string& name) {
  return table[table.find(name)];
}

TEST(Mup, TheBaseModelIsStandard) {
  for (const Family family : {Family::kGpt, Family::kLlama}) {
    for (const InitKind init :
         {InitKind::kGpt2, InitKind::kXavierUniform, InitKind::kKaimingNormal}) {
      ModelConfig config = mup(family, 64, 64);
      config.init = init;
      ModelConfig standard = config;
      standard.parametrization = Parametrization::kStandard;
      const ParameterTable table(config);
      const ParameterTable of_standard(standard);
      ASSERT_EQ(table.size(), of_standard.size());
      for (ParameterId id = 0; id < table.size(); ++id) {
        EXPECT_EQ(table[id].init.scale, of_standard[id].init.scale) << table[id].name;
        EXPECT_EQ(table[id].width_multiplier, 1.0);
      }
      EXPECT_EQ(attention_scale(config), attention_scale(standard));
      EXPECT_EQ(config.width_multiplier(), 1.0);
      EXPECT_TRUE(find_problems(config).empty());
    }
  }
}

TEST(Mup, ScalesByTheFanInOfEachTensor) {
  const ModelConfig config = mup(Family::kLlama, 256, 64);
  const ParameterTable table(config);
  const ParameterTable base(base_model(config));
  const double q = spec_of(base, "block.0.attention.q.weight").init.scale;
  EXPECT_EQ(spec_of(table, "block.0.attention.q.weight").width_multiplier, 4.0);
  EXPECT_DOUBLE_EQ(spec_of(table, "block.0.attention.q.weight").init.scale, q / 2.0);
  // 8/3 of the width, rounded up to 64: 192 and 704.
  EXPECT_DOUBLE_EQ(spec_of(table, "block.0.mlp.down.weight").width_multiplier, 704.0 / 192.0);
  for (const char* name : {"embeddings.token.weight", "head.weight", "head.norm.weight"}) {
    EXPECT_EQ(spec_of(table, name).width_multiplier, 1.0) << name;
    EXPECT_EQ(spec_of(table, name).init.scale, spec_of(base, name).init.scale) << name;
  }
  const double d0 = 64.0 / static_cast<double>(config.heads);
  EXPECT_DOUBLE_EQ(attention_scale(config), std::sqrt(d0) / (4.0 * d0));
}

TEST(Mup, WhatMakesNoSenseIsRefused) {
  EXPECT_FALSE(find_problems(mup(Family::kGpt, 64, 0)).empty());
  EXPECT_FALSE(find_problems(mup(Family::kGpt, 64, 63)).empty());
  ModelConfig post = mup(Family::kGpt, 64, 64);
  post.norm_position = NormPosition::kPost;
  EXPECT_FALSE(find_problems(post).empty());
}

}  // namespace
}  // namespace lockstep::models
