// What is refused, and that the message names the place, the key, what was found and what is legal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/config/load_config.h"
#include "tests/runtime/config/sample_config.h"

namespace lockstep::runtime {
namespace {

using test::sample_config;
using ::testing::HasSubstr;

// The message of the error, or "accepted".
std::string message_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_config(text, "c.yaml", overrides);
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    return error.what();
  }
  return "accepted";
}

struct BadLine {
  const char* name;
  int line;  // of sample_config
  const char* text;
  std::vector<const char*> expected;  // parts of the message
};

void PrintTo(const BadLine& row, std::ostream* out) {
  *out << row.text;
}

class BadLineTest : public ::testing::TestWithParam<BadLine> {};

TEST_P(BadLineTest, IsRefusedWithPlaceAndReason) {
  const BadLine& row = GetParam();
  const std::string message = message_of(sample_config(row.line, row.text));
  for (const char* part : row.expected)
    EXPECT_THAT(message, HasSubstr(part));
}

const char* const kModel = "model: {layers: 2, heads: 2, width: 64, context: 32, vocab: 256, ";

std::string model_with(const char* keys) {
  return std::string(kModel) + keys + "}";
}

const std::vector<BadLine> kKeys = {
    {"UnknownSection",
     7,
     "modle: {}",
     {"c.yaml:7:1: modle: unknown key", "'model'", "train, loss"}},
    {"UnknownKey", 1, "run: {sed: 3}", {"c.yaml:1:7: run.sed: unknown key", "'run.seed'"}},
    {"UnknownKeyListsLegalOnes", 5, "train: {steps: 9, zzz: 3}", {"5:19", "validate_batches"}},
    {"KeyOfAnotherSection", 7, "clip: {learning_rate: 1}", {"7:8", "'optimizer.learning_rate'"}},
    {"KeyOfAnotherProgram", 6, "optimizer: {lr: 1e-3}", {"6:13", "'optimizer.learning_rate'"}},
    {"UnknownNested", 7, "precision: {loss_scale: {init: 2}}", {"7:26", "loss_scale.init"}},
    {"MergeKey", 7, "clip: {<<: {mode: none}}", {"7:8", "clip.<<: unknown key"}},
    {"Duplicate", 1, "run: {seed: 3, seed: 3}", {"1:16: run.seed: duplicate", "c.yaml:1:7"}},
    {"DuplicateSection", 7, "train: {steps: 3}", {"7:1: train: duplicate", "c.yaml:5:1"}},
    {"DuplicateNested",
     7,
     "precision: {loss_scale: {initial: 2, initial: 4}}",
     {"7:38: precision.loss_scale.initial: duplicate"}},
    {"KeyIsAList", 7, "? [a]\n: 3", {"7:3", "a key must be a word, found a list"}},
    {"SectionIsAList", 7, "clip: [mode]", {"7:7: clip: expected a map", "threshold"}},
    {"SectionIsANumber", 7, "clip: 3", {"7:7: clip: expected a map", "found '3'"}},
    {"MissingKey", 4, "batch: {global: 8}", {"4:1: batch.micro: is required", "integer"}},
    {"MissingSection", 3, "", {"c.yaml:1:1: data.train: is required"}},
    {"Tag", 1, "run: {seed: !x 3}", {"1:13", "the tag '!x'"}},
    {"BelowAKey", 7, "fault: {kind: nan}", {"7:8: fault: expected a list", "found a map"}},
};

const std::vector<BadLine> kValues = {
    {"Nothing", 1, "run: {seed: }", {"run.seed: expected an integer >= 0, found nothing"}},
    {"Null", 1, "run: {seed: null}", {"1:7", "found nothing"}},
    {"TextForInteger", 1, "run: {seed: many}", {"1:13: run.seed: expected a number", "'many'"}},
    {"QuotedInteger", 1, "run: {seed: \"3\"}", {"1:13", "the quoted text '3'"}},
    {"TaggedText", 1, "run: {seed: !!str 3}", {"1:13", "the quoted text '3'"}},
    {"ListForInteger", 1, "run: {seed: [3]}", {"1:13", "found a list"}},
    {"MapForInteger", 1, "run: {seed: {a: 3}}", {"1:13", "found a map"}},
    {"LeadingZero", 1, "run: {seed: 007}", {"1:13: run.seed: '007' has a leading zero"}},
    {"LeadingZeroTen", 1, "run: {seed: 010}", {"1:13", "'010' has a leading zero"}},
    {"LeadingZeroNegative", 1, "run: {seed: -01}", {"'-01' has a leading zero"}},
    {"LeadingZeroFraction", 6, "optimizer: {learning_rate: 00.1}", {"6:28", "leading zero"}},
    {"Hexadecimal", 1, "run: {seed: 0x10}", {"1:13", "found '0x10'"}},
    {"Underscore", 5, "train: {steps: 1_000}", {"5:16", "found '1_000'"}},
    {"PlusSign", 5, "train: {steps: +5}", {"5:16", "found '+5'"}},
    {"ExponentForInteger", 5, "train: {steps: 1e3}", {"5:16", "write all its digits"}},
    {"FractionForInteger", 5, "train: {steps: 10.0}", {"5:16", "expected an integer"}},
    {"HugeInteger", 1, "run: {seed: 99999999999999999999}", {"1:13", "does not fit 64 bits"}},
    {"NegativeSeed", 1, "run: {seed: -1}", {"1:13", "must be an integer >= 0, is -1"}},
    {"ZeroSteps", 5, "train: {steps: 0}", {"5:16: train.steps: must be an integer >= 1, is 0"}},
    {"ZeroMicro", 4, "batch: {global: 8, micro: 0}", {"4:27: batch.micro: must be"}},
    {"Nan", 6, "optimizer: {learning_rate: .nan}", {"6:28", "not a finite number"}},
    {"Infinity", 6, "optimizer: {learning_rate: .inf}", {"6:28", "not a finite number"}},
    {"HugeNumber", 6, "optimizer: {learning_rate: 1e999}", {"6:28", "beyond the range"}},
    {"TinyNumber", 6, "optimizer: {learning_rate: 1e-999}", {"6:28", "beyond the range"}},
    {"NegativeRate", 6, "optimizer: {learning_rate: -1}", {"6:28", "must be a number >= 0"}},
    {"Yes", 7, "parallel: {overlap: yes}", {"7:21: parallel.overlap", "'yes'; write true"}},
    {"Off", 7, "parallel: {overlap: off}", {"7:21", "'off'; write false"}},
    {"CapitalTrue", 7, "parallel: {overlap: True}", {"7:21", "write true"}},
    {"QuotedTrue", 7, "parallel: {overlap: 'true'}", {"7:21", "expected a boolean"}},
    {"UnknownChoice", 7, "clip: {mode: norm}", {"7:14: clip.mode", "one of global_norm"}},
    {"ChoiceSuggests", 7, "clip: {mode: Global-Norm}", {"did you mean 'global_norm'?"}},
    {"StageThree", 7, "parallel: {zero_stage: 3}", {"7:24", "an integer from 0 to 2, is 3"}},
    {"OneBeta", 6, "optimizer: {learning_rate: 1, betas: [0.9]}", {"6:38", "list of 1"}},
    {"BetaOne", 6, "optimizer: {learning_rate: 1, betas: [0.9, 1]}", {"6:38", "found 1"}},
    {"BetasScalar", 6, "optimizer: {learning_rate: 1, betas: 0.9}", {"6:38", "found '0.9'"}},
    {"SmoothingOne", 7, "loss: {label_smoothing: 1}", {"7:25", "a number >= 0 and < 1"}},
    {"ZeroThreshold", 7, "clip: {threshold: 0}", {"7:19", "must be a number > 0, is 0"}},
    {"BackoffAboveOne", 7, "precision: {loss_scale: {backoff_factor: 2}}", {"7:42", "< 1"}},
    {"GrowthOne", 7, "precision: {loss_scale: {growth_factor: 1}}", {"7:41", "> 1"}},
    {"D11DottedAndNested",
     5,
     "train.steps: 9\ntrain: {steps: 10}",
     {"6:9: train.steps: duplicate key; it was given at", ":5:1"}},
    {"Tab", 7, "clip:\n\tthreshold: 2", {"line 8 is indented with a tab"}},
    {"NegativeEvery", 7, "checkpoint: {every_steps: -5}", {"7:27", ">= 0, is -5"}},
    {"KeepNone", 7, "checkpoint: {keep: 0}", {"7:20", ">= 1, is 0"}},
    {"EmptyPath", 3, "data: {train: ''}", {"3:15: data.train: the path is empty"}},
    {"NoPaths", 3, "data: {train: []}", {"3:15", "the list is empty"}},
    {"PathIsAMap", 3, "data: {train: {a: b}}", {"3:15", "found a map"}},
    {"PathsHoldAList", 3, "data: {train: [a, [b]]}", {"3:15", "found a list"}},
    {"Tilde", 3, "data: {train: ~/tokens}", {"3:15", "~ is not expanded"}},
    {"NameWithSlash", 1, "run: {name: a/b}", {"1:13: run.name", "'a/b'"}},
    {"NameIsDots", 1, "run: {name: ..}", {"1:13", "legal as a folder's name"}},
};

const std::vector<BadLine> kRules = {
    {"GlobalNotMultiple", 4, "batch: {global: 7, micro: 2}", {"4:17: batch.global", "6 and 8"}},
    {"MicroAboveGlobal", 4, "batch: {global: 2, micro: 3}", {"4:17", "that are: 3"}},
    {"NoValidationData", 5, "train: {steps: 9, validate_every: 3}", {"5:35", "data.validation"}},
    {"WarmupTooLong", 7, "schedule: {warmup_steps: 100}", {"7:26: schedule.warmup_steps"}},
    {"TotalTooShort",
     7,
     "schedule: {warmup_steps: 5, total_steps: 5}",
     {"7:42: schedule.total_steps", "leaves nothing"}},
    {"MinimumAboveRate", 7, "schedule: {min_learning_rate: 1}", {"7:31", "0.001"}},
    {"StepWithoutSize", 7, "schedule: {name: step, gamma: 0.5}", {"schedule.step_size: required"}},
    {"StepWithoutGamma", 7, "schedule: {name: step, step_size: 5}", {"schedule.gamma: required"}},
    {"WsdWithoutDecay", 7, "schedule: {name: wsd}", {"7:1: schedule.decay_steps: required"}},
    {"DecayTooLong", 7, "schedule: {name: wsd, decay_steps: 101}", {"7:36", "100 steps"}},
    {"UnusedStepSize", 7, "schedule: {step_size: 5}", {"7:23", "no effect", "schedule.name step"}},
    {"UnusedTotal", 7, "schedule: {name: constant, total_steps: 5}", {"7:41", "no effect"}},
    {"UnusedThreshold", 7, "clip: {mode: none, threshold: 2}", {"7:31", "no effect"}},
    {"UnusedScale", 7, "precision: {loss_scale: {initial: 2}}", {"7:35", "no effect"}},
    {"UnusedWarmup", 7, "ema: {warmup: true}", {"7:15: ema.warmup", "no effect", "ema.decay"}},
    {"EmaOfOne", 7, "ema: {decay: 1}", {"7:14: ema.decay", "< 1"}},
    {"WindowWithoutDecay", 7, "clip: {mode: zclip, window_decay: 1}", {"> 0 and < 1, is 1"}},
    {"NoWarmupOfNorms", 7, "clip: {mode: adagc, warmup_steps: 0}", {"an integer >= 1, is 0"}},
    {"RatioBelowOne", 7, "clip: {mode: adagc, ratio: 0.9}", {"a number >= 1, is 0.9"}},
    {"UnusedRatio", 7, "clip: {mode: zclip, ratio: 1.1}", {"clip.ratio", "no effect"}},
    {"UnusedZThreshold", 7, "clip: {mode: adagc, z_threshold: 3}", {"z_threshold", "no effect"}},
    {"UnknownMean", 7, "loss: {normalise: documents}", {"one of tokens, sequences"}},
    {"UnusedMuon", 6, "optimizer: {learning_rate: 1, muon: {ns_steps: 3}}", {"no effect", "muon"}},
    {"IterationsInHalf",
     6,
     "optimizer: {learning_rate: 1, name: muon, muon: {ns_dtype: fp16}}",
     {"one of fp32, bf16"}},
    {"MinimumAboveMuonsAdamW",
     6,
     "optimizer: {learning_rate: 1, name: muon, muon: {adamw_learning_rate: 0.1}}\n"
     "schedule: {min_learning_rate: 0.2}",
     {"schedule.min_learning_rate", "above optimizer.muon.adamw_learning_rate"}},
    {"UnusedMomentum", 6, "optimizer: {learning_rate: 1, momentum: 0.9}", {"6:41", "no effect"}},
    {"UnusedBetas",
     6,
     "optimizer: {learning_rate: 1, name: sgd, betas: [0, 0]}",
     {"6:49", "no effect"}},
    {"ScaleMinimum",
     7,
     "precision: {compute: fp16, loss_scale: {initial: 2, minimum: 4}}",
     {"7:62", "above precision.loss_scale.initial"}},
    {"RanksWithBoundary",
     1,
     "run: {reproducible: ranks}\nparallel: {grad_sync: boundary}",
     {"2:23: parallel.grad_sync", "every_round"}},
    {"RanksWithReduceType",
     1,
     "run: {reproducible: ranks}\nparallel: {reduce_type: fp32}",
     {"2:25: parallel.reduce_type", "auto"}},
    {"RanksOnCuda",
     1,
     "run: {reproducible: ranks}\nbackend: {device: cuda}",
     {"2:19: backend.device", "needs cpu"}},
    {"NcclBuffersOverMpi",
     7,
     "backend: {comm: mpi, nccl_buffers: registered}",
     {"7:36: backend.nccl_buffers", "registered would have no effect", "backend.comm nccl"}},
    {"NcclBuffersOnCpu",
     7,
     "backend: {device: cpu, nccl_buffers: symmetric}",
     {"7:38: backend.nccl_buffers", "symmetric would have no effect"}},
    {"NcclBuffersWord",
     7,
     "backend: {nccl_buffers: register}",
     {"7:25: backend.nccl_buffers", "'registered'"}},
    {"FaultLayer", 7, "fault: [{kind: nan, step: 1, layer: 2}]", {"7:8: fault", "0 to 1"}},
    {"FaultKind", 7, "fault: [{kind: nann, step: 1}]", {"7:16: fault[0].kind", "'nan'"}},
    {"FaultStep", 7, "fault: [{kind: nan, step: 0}]", {"7:27: fault[0].step"}},
    {"FaultWithoutStep", 7, "fault: [{kind: nan}]", {"7:9: fault[0]: step is required"}},
    {"FaultUnknown", 7, "fault: [{kind: nan, stp: 1}]", {"7:21: fault[0].stp", "'step'"}},
    {"FaultTwice", 7, "fault: [{kind: nan, kind: nan, step: 1}]", {"7:21", "duplicate"}},
    {"GroupMatchesNothing",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: blok.*, freeze: true}]}",
     {"6:39: optimizer.groups: 'blok.*' matches no tensor", "embeddings.token.weight"}},
    {"GroupInTheShadow",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: 'block.*', weight_decay: 0}, "
     "{match: block.1.*, learning_rate_scale: 2}]}",
     {"item 1 would have no effect", "earlier item"}},
    {"GroupsFreezeAll",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: '*', freeze: true}]}",
     {"every tensor is frozen"}},
    {"GroupWithoutMatch",
     6,
     "optimizer: {learning_rate: 1, groups: [{freeze: true}]}",
     {"6:40: optimizer.groups[0].match: is required"}},
    {"GroupWithoutEffect",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: 'head.*'}]}",
     {"6:40: optimizer.groups[0]: changes nothing"}},
    {"GroupUnknown",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: 'head.*', lr_scale: 2}]}",
     {"6:58: optimizer.groups[0].lr_scale: unknown key", "learning_rate_scale"}},
    {"GroupFrozenAndScaled",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: 'head.*', freeze: true, weight_decay: 0}]}",
     {"optimizer.groups[0].freeze", "no effect"}},
    {"GroupScaleOfZero",
     6,
     "optimizer: {learning_rate: 1, groups: [{match: 'head.*', learning_rate_scale: 0}]}",
     {"optimizer.groups[0].learning_rate_scale", "freeze: true"}},
    {"GroupsAreAMap",
     6,
     "optimizer: {learning_rate: 1, groups: {match: 'head.*'}}",
     {"6:39: optimizer.groups: expected a list", "found a map"}},
    {"FaultIsAWord", 7, "fault: [nan]", {"7:9: fault[0]", "found 'nan'"}},
};

const std::vector<BadLine> kNotBuilt = {
    {"Bert",
     2,
     "model: {family: bert, layers: 2, heads: 2, width: 64, context: 32, vocab: 256}",
     {"2:17: model.task: masked_lm is not built yet"}},
    {"MaskToken", 3, "data: {train: a, mask_token: 5}", {"3:30", "not built yet"}},
    {"MaskProbability", 3, "data: {train: a, mask_probability: 0.2}", {"3:36", "not built yet"}},
    {"LabelField", 3, "data: {train: a, label_field: x}", {"3:31", "not built yet"}},
};

std::string row_name(const ::testing::TestParamInfo<BadLine>& row) {
  return row.param.name;
}

INSTANTIATE_TEST_SUITE_P(Keys, BadLineTest, ::testing::ValuesIn(kKeys), row_name);
INSTANTIATE_TEST_SUITE_P(Values, BadLineTest, ::testing::ValuesIn(kValues), row_name);
INSTANTIATE_TEST_SUITE_P(Rules, BadLineTest, ::testing::ValuesIn(kRules), row_name);
INSTANTIATE_TEST_SUITE_P(NotBuilt, BadLineTest, ::testing::ValuesIn(kNotBuilt), row_name);

// Keys of the model whose combination makes no sense.
TEST(BadModelTest, NamesTheKeyAtItsPlace) {
  const std::vector<std::pair<const char*, const char*>> rows = {
      {"kv_heads: 3", "c.yaml:2:76: model.kv_heads"},
      {"dropout: 1", "c.yaml:2:75: model.dropout"},
      {"norm_eps: 0", "c.yaml:2:76: model.norm_eps"},
      {"classes: 3", "c.yaml:2:75: model.classes"},
      {"norm: batch", "c.yaml:2:72: model.norm"},
      {"rope_theta: 500", "c.yaml:2:78: model.rope_theta"},
      {"head_width: 3, positions: rope", "c.yaml:2:78: model.head_width: must be even"},
      {"attention_window: [1, 2, 3]", "c.yaml:2:84: model.attention_window: has 3 entries"},
      {"attention_window: -1", "c.yaml:2:84: model.attention_window"},
      {"attention_window: []", "an empty list"},
      {"bias: maybe", "one of true, false, qkv"},
      {"rope_scaling: {type: linear, factor: 2}", "model.rope_scaling.type: scales rotary"},
      {"rope_scaling: {factor: 2}", "model.rope_scaling.factor: 2 would have no effect"},
      {"positions: rope, rope_scaling: {type: llama3, factor: 2}",
       "model.rope_scaling.original_max_position_embeddings: is required"},
      {"init_resize: true", "model.init_resize: true would have no effect"},
  };
  for (const auto& [keys, expected] : rows) {
    EXPECT_THAT(message_of(sample_config(2, model_with(keys))), HasSubstr(expected)) << keys;
  }
  EXPECT_THAT(message_of(sample_config(), {"model.heads=3"}),
              HasSubstr("--set model.heads=3: model.heads: must divide width (64)"));
}

TEST(BadFileTest, TextThatIsNotOneMap) {
  EXPECT_THAT(message_of(""), HasSubstr("c.yaml: the file is empty"));
  EXPECT_THAT(message_of("# nothing\n"), HasSubstr("the file is empty"));
  EXPECT_THAT(message_of("[1, 2]"), HasSubstr("c.yaml:1:1: expected a map"));
  EXPECT_THAT(message_of("word"), HasSubstr("found 'word'"));
  EXPECT_THAT(message_of(sample_config() + "---\nrun: {}\n"), HasSubstr("c.yaml:8:1: a second"));
  EXPECT_THAT(message_of("run: {seed: 3\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(message_of("run:\n\tseed: 3\n"), HasSubstr("c.yaml:2:"));
  EXPECT_THAT(message_of("run: *nowhere"), HasSubstr("c.yaml:1:6: not valid YAML"));
  EXPECT_THAT(message_of(std::string(100000, '[')), HasSubstr("not valid YAML"));
}

TEST(BadFileTest, UnreadableFile) {
  const auto message = [](const std::filesystem::path& file) -> std::string {
    try {
      load_config(file);
    } catch (const core::Error& error) {
      EXPECT_EQ(error.exit_code(), 2);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message("/nowhere/c.yaml"), HasSubstr("/nowhere/c.yaml: cannot read"));
  EXPECT_THAT(message("/"), HasSubstr("it is a directory"));
  const std::filesystem::path large = ::testing::TempDir() + "/large_config.yaml";
  std::ofstream(large) << std::string(2 << 20, '#');
  EXPECT_THAT(message(large), HasSubstr("larger than 1 MiB"));
  std::filesystem::remove(large);
}

TEST(BadFileTest, AllProblemsAreListedInTheOrderOfTheFile) {
  std::string text = sample_config(1, "run: {seed: 007, nme: x}");
  text += "health: 3\nema: {decay: 1.5}\n";
  const std::string message = message_of(text, {"clip.mode=x"});
  const std::vector<std::string> parts = {"c.yaml:1:13: run.seed", "c.yaml:1:18: run.nme",
                                          "c.yaml:8:9: health", "c.yaml:9:14: ema.decay",
                                          "--set clip.mode=x: clip.mode"};
  std::size_t position = 0;
  for (const std::string& part : parts) {
    position = message.find(part, position);
    ASSERT_NE(position, std::string::npos) << part << " in\n" << message;
  }
}

TEST(BadOverrideTest, NamesTheOverride) {
  const std::vector<std::pair<const char*, const char*>> rows = {
      {"train.steps", "--set train.steps: expected path.to.key=value"},
      {"=3", "expected path.to.key=value"},
      {"train.step=3", "--set train.step=3: train.step: unknown key; did you mean 'train.steps'"},
      {"trian.steps=3", "trian.steps: unknown key; did you mean 'train'"},
      {"train.steps.more=3", "train.steps has none below it"},
      {"train.steps=", "no value after '='"},
      {"train.steps=0", "--set train.steps=0: train.steps: must be an integer >= 1, is 0"},
      {"train.steps=null", "train.steps: is required and missing"},
      {"train=3", "--set train=3: train: expected a map"},
      {"clip={mode: none, mode: value}", "clip.mode: duplicate key"},
      {"fault=[{kind: nan}]", "fault[0]: step is required"},
      {"run.seed=[", "not valid YAML"},
  };
  for (const auto& [assignment, expected] : rows) {
    EXPECT_THAT(message_of(sample_config(), {assignment}), HasSubstr(expected)) << assignment;
  }
}

}  // namespace
}  // namespace lockstep::runtime
