// `lockstep bench comm`, `ops` and `step`: what they print and when they refuse. How fast
// things are is for nobody to test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "core/cuda/stand_in/machine.h"
#include "core/cuda_module.h"
#include "launcher/bench/bench_device.h"
#include "launcher/bench/ops_bench.h"
#include "models/parameter_table.h"
#include "ops/cuda/stand_in_bodies.h"
#include "tests/support/run_command.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::launcher {
namespace {

using nlohmann::json;
using testing::CommandResult;
using ::testing::HasSubstr;

class BenchTest : public ::testing::Test {
 protected:
  CommandResult run(const std::string& arguments) {
    const char* binary = std::getenv("LOCKSTEP_BINARY");
    EXPECT_NE(binary, nullptr) << "set LOCKSTEP_BINARY, as ctest does";
    std::vector<std::string> argv = {binary == nullptr ? "lockstep" : binary, "bench"};
    std::istringstream words(arguments);
    for (std::string word; words >> word;)
      argv.push_back(word);
    testing::CommandOptions options;
    options.directory = directory_.path();
    options.environment["TMPDIR"] = (directory_ / "scratch").string();
    options.environment["OMP_NUM_THREADS"] = "1";
    std::filesystem::create_directories(directory_ / "scratch");
    return testing::run_command(argv, options);
  }

  std::vector<json> lines_of(const std::string& arguments) {
    const CommandResult result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<json> lines;
    std::istringstream text(result.out);
    for (std::string line; std::getline(text, line);)
      lines.push_back(json::parse(line));
    return lines;
  }

  void expect_refused(const std::string& arguments, int exit_code, const std::string& words) {
    const CommandResult result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << arguments << result.err;
    EXPECT_THAT(result.err, HasSubstr(words)) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
  }

  void write_config() {
    directory_.write("tiny.yaml",
                     "model: {layers: 2, heads: 2, width: 64, context: 32, vocab: 256}\n"
                     "data: {train: missing.bin, validation: missing.bin}\n"
                     "batch: {global: 4, micro: 2}\n"
                     "train: {steps: 3, validate_every: 1}\n"
                     "checkpoint: {every_steps: 1}\n"
                     "optimizer: {learning_rate: 1e-3}\n"
                     "backend: {threads: 1}\n");
  }

  testing::TemporaryDirectory directory_;
};

constexpr const char* kQuick = "ops --shapes tiny --threads 1 --repetitions 3 --seconds 0.02 ";

TEST_F(BenchTest, OpsTellsOfEveryOperationBesideTheCeilings) {
  const std::vector<json> lines = lines_of(std::string(kQuick) + "--rotate-mib 1");
  ASSERT_GT(lines.size(), 30U);
  EXPECT_EQ(lines.front()["op"], "ceilings");
  const double copy = lines.front()["copy_gb_per_s"];
  const double matrix = lines.front()["matrix_tflop_per_s"];
  EXPECT_GT(copy, 0.0);
  EXPECT_GT(matrix, 0.0);
  EXPECT_EQ(lines.back()["op"], "total");
  std::set<std::string> names;
  double seconds = 0.0;
  for (const json& line : lines) {
    EXPECT_EQ(line["bench"], "ops");
    EXPECT_EQ(line["device"], "cpu");
    EXPECT_EQ(line["dtype"], "fp32");
    EXPECT_EQ(line["tokens"], 32);
    if (line["op"] == "ceilings" || line["op"] == "total") continue;
    const std::string name = std::string(line["op"]) + " " + std::string(line["part"]);
    EXPECT_TRUE(names.insert(name).second) << name << " twice";
    ASSERT_FALSE(line.contains("skipped")) << line;
    const double time = line["seconds"];
    EXPECT_GT(time, 0.0) << name;
    EXPECT_LT(time, 1.0) << name;
    EXPECT_GT(line["bytes"], 0.0) << name;
    EXPECT_GT(line["fraction"], 0.0) << name;
    EXPECT_LT(line["fraction"], 50.0) << name;  // caches are faster than copies between memory
    const double moving = static_cast<double>(line["bytes"]) / 1e9 / copy;
    const double multiplying = static_cast<double>(line["operations"]) / 1e12 / matrix;
    EXPECT_EQ(line["bound"], multiplying > moving ? "matrix" : "copy") << name;
    EXPECT_NEAR(line["fraction"], std::max(moving, multiplying) / time, 1e-6) << name;
    seconds += static_cast<double>(line["calls"]) * time;
  }
  EXPECT_NEAR(lines.back()["seconds"], seconds, 1e-9);
  EXPECT_EQ(lines.back()["measured"], names.size());
  EXPECT_EQ(lines.back()["skipped"], 0);
}

TEST_F(BenchTest, OpsCountsWhatMustMoveAndWhatMustBeMultiplied) {
  std::map<std::string, json> by_name;
  for (const json& line : lines_of(std::string(kQuick) + "--rotate-mib 0 --dtype bf16"))
    by_name[std::string(line["op"]) + " " + std::string(line.value("part", ""))] = line;
  // 32 tokens, width 64, vocabulary 256, 2 blocks with an MLP of 256.
  const auto bytes = [&](const std::string& name) { return by_name[name]["bytes"].get<int>(); };
  EXPECT_EQ(bytes("residual_forward stream"), 3 * 32 * 64 * 2);
  EXPECT_EQ(bytes("layer_norm_backward norm, residual added"),
            4 * 32 * 64 * 2 + 3 * 64 * 2 + 2 * 32 * 4);
  EXPECT_EQ(bytes("activation_backward mlp"), 3 * 32 * 256 * 2);
  EXPECT_EQ(bytes("cross_entropy forward and backward, in place"), 32 * 4 + 32 * 256 * (4 + 2));
  const int block = 12 * 64 * 64 + 13 * 64;
  EXPECT_EQ(bytes("optimizer_update_runs adamw"), 2 * block * (4 + 8 + 16 + 2));
  EXPECT_EQ(bytes("accumulate leaf onto fp32 sum"), block * (2 + 8));
  EXPECT_EQ(bytes("hash_messages parameters"), 2 * block * 2);
  EXPECT_EQ(bytes("attention_forward attention"), 4 * 32 * 64 * 2 + 2 * 32 * 4);
  EXPECT_EQ(bytes("matmul head forward"), (32 * 64 + 256 * 64) * 2 + 32 * 256 * 4);
  EXPECT_EQ(bytes("matmul_weight_gradient head"), (32 * 256 + 32 * 64) * 2 + 256 * 64 * 4);
  EXPECT_EQ(bytes("matmul_weight_gradient attention.out and bias"),
            (32 * 64 + 32 * 64 + 64 * 64 + 64) * 2);
  EXPECT_EQ(bytes("matmul_activation_forward mlp.up"),
            (32 * 64 + 256 * 64 + 256 + 2 * 32 * 256) * 2);
  EXPECT_EQ(bytes("matmul_activation_backward mlp.down and bias before"),
            (32 * 64 + 64 * 256 + 2 * 32 * 256 + 256) * 2);
  EXPECT_EQ(bytes("embedding_forward tokens"), 32 * 4 + 3 * 32 * 64 * 2);
  EXPECT_EQ(by_name["matmul mlp.up forward"]["operations"], 2.0 * 32 * 256 * 64);
  EXPECT_EQ(by_name["matmul mlp.up forward"]["calls"], 0.0) << "fused with its activation";
  EXPECT_EQ(by_name["matmul_activation_forward mlp.up"]["calls"], 2.0);
  EXPECT_EQ(by_name["attention_backward attention"]["operations"], 5.0 * 32 * 32 * 64);
  EXPECT_EQ(by_name["rope queries"]["calls"], 0.0) << "GPT-2 rotates nothing";
}

TEST_F(BenchTest, OpsMeasuresWhatTheFilterLeaves) {
  const std::vector<json> lines = lines_of(std::string(kQuick) + "--tokens 16 --filter head");
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_EQ(lines[1]["shape"], "16 x 256 x 64");
  const CommandResult table = run(std::string(kQuick) + "--filter head -o table");
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("head input backward"));
}

TEST_F(BenchTest, OpsSkipsWhatDoesNotFit) {
  const std::vector<json> lines = lines_of(
      "ops --threads 1 --repetitions 1 --tokens 512 --memory-mib 128 --filter cross_entropy");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(std::string(lines[1]["skipped"]), HasSubstr("128"));
}

TEST_F(BenchTest, OpsRefusesWhatItCannotMeasure) {
  expect_refused(std::string(kQuick) + "--filter nonsense", 2, "residual_forward stream");
  expect_refused(std::string(kQuick) + "--tokens 33", 2, "multiple");
  expect_refused("ops --shapes gpt5", 2, "gpt5");
  expect_refused("ops --reproducible ranks", 2, "ranks");
}

TEST_F(BenchTest, OpsSaysWhyThereIsNoGpu) {
  const core::CudaModule module = core::load_cuda_module();
  if (module.description != nullptr && core::why_no_device(module.runtime()).empty())
    GTEST_SKIP() << "there is a GPU";
  const CommandResult result = run("ops --device cuda --shapes tiny");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("CUDA"));
  EXPECT_EQ(result.out, "");
}

// Every operation on a device, by the bodies that a GPU runs.
TEST(OpsBench, MeasuresEveryOperationOnADevice) {
  for (const char* name : {"tiny", "llama-1100m"}) {
    OpShapes shapes;
    shapes.model = model_named(name);
    shapes.dtype = core::DType::kBF16;
    if (shapes.model.width > 64) {  // what differs is the family
      shapes.model.layers = 1;
      shapes.model.heads = 4;
      shapes.model.kv_heads = 2;
      shapes.model.width = 64;
      shapes.model.ffn_width = 128;
      shapes.model.vocab = 128;
      shapes.model.context = 32;
    }
    BenchDevice device(core::open_device(core::cuda::stand_in_runtime(), 0),
                       ops::cuda::stand_in_op_bodies(), 1, std::size_t{256} << 20,
                       ops::Determinism::kRun);
    OpsBenchOptions options;
    options.limits = {1, 0.0, 0.0};
    options.rotate_bytes = 0;
    options.memory_bytes = std::size_t{256} << 20;
    Ceilings ceilings;
    ceilings.copy_bytes_per_second = 1e9;
    ceilings.matrix_flop_per_second = 1e9;
    int measured = 0;
    const std::vector<OpCase> cases = filtered_cases(shapes, "");
    measure_ops(device.context(), device.memory(), cases, ceilings, options,
                [&](const OpMeasurement& m) {
                  EXPECT_EQ(m.skipped, "") << m.op;
                  EXPECT_GE(m.time.seconds, 0.0) << m.op;
                  EXPECT_EQ(m.operand_sets, 1) << m.op;
                  ++measured;
                });
    EXPECT_EQ(measured, static_cast<int>(cases.size()));
  }
}

TEST(OpsBench, ModelsHaveTheirSizes) {
  const std::map<std::string, std::int64_t> parameters = {
      {"gpt2-124m", 124475904}, {"gpt2-350m", 354871296}, {"llama-1100m", 1100048384}};
  for (const auto& [name, count] : parameters)
    EXPECT_EQ(models::ParameterTable(model_named(name)).total_elements(), count) << name;
}

TEST(DatasheetPeak, IsKnownForCardsOfThatName) {
  EXPECT_EQ(datasheet_peak("NVIDIA H200", core::DType::kBF16), 989.5e12);
  EXPECT_EQ(datasheet_peak("NVIDIA H100 80GB HBM3", core::DType::kF16), 989.5e12);
  EXPECT_EQ(datasheet_peak("NVIDIA H100 PCIe", core::DType::kBF16), 0.0);
  EXPECT_EQ(datasheet_peak("NVIDIA H200", core::DType::kF32), 0.0);
  EXPECT_EQ(datasheet_peak("some processor", core::DType::kBF16), 0.0);
}

void expect_sound_comm(const std::vector<json>& lines, int ranks) {
  ASSERT_EQ(lines.size(), 6U);
  for (const json& line : lines) {
    SCOPED_TRACE(line.dump());
    EXPECT_EQ(line["bench"], "comm");
    EXPECT_EQ(line["backend"], ranks == 1 ? "self" : "mpi");
    EXPECT_TRUE(line["nccl"].is_null());
    EXPECT_EQ(line["device"], "cpu");
    EXPECT_EQ(line["ranks"], ranks);
    EXPECT_EQ(line["bytes"], 1 << 20);
    EXPECT_EQ(line["repetitions"], 1);
    const double algorithm = line["algorithm_gb_per_s"];
    EXPECT_NEAR(algorithm, (1 << 20) / line["seconds"].get<double>() / 1e9, 1e-9);
    const double part = (ranks - 1.0) / ranks;
    const std::string collective = line["collective"];
    double factor = collective == "all_reduce" ? 2 * part : part;
    if (collective == "broadcast" && ranks > 1) factor = 1.0;
    EXPECT_NEAR(line["bus_gb_per_s"], factor * algorithm, 1e-9);
    EXPECT_GT(line["copy_gb_per_s"], 0.0);
  }
}

constexpr const char* kQuickComm = "comm --mebibytes 1 --repetitions 1 ";

TEST_F(BenchTest, CommMeasuresEveryCollectiveBesideCopies) {
  expect_sound_comm(lines_of(std::string(kQuickComm) + "--ranks 1"), 1);
  expect_sound_comm(lines_of(std::string(kQuickComm) + "--comm self"), 1);
  expect_sound_comm(lines_of(kQuickComm), 2);
  const CommandResult table = run(std::string(kQuickComm) + "--backend local -o table");
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("2 rank(s) (local) on cpu"));
  EXPECT_THAT(table.out, HasSubstr("reduce_scatter  bf16->fp32"));
}

TEST_F(BenchTest, CommRefusesWhatItCannotMeasure) {
  expect_refused(std::string(kQuickComm) + "--ranks 1 --comm nccl", 2, "nccl");
  expect_refused(std::string(kQuickComm) + "--backend local --device cuda", 2, "--device");
  expect_refused(std::string(kQuickComm) + "--ranks 2 --comm self", 2, "self");
}

TEST_F(BenchTest, CommSaysWhyThereIsNoGpu) {
  const core::CudaModule module = core::load_cuda_module();
  if (module.description != nullptr && core::why_no_device(module.runtime()).empty())
    GTEST_SKIP() << "there is a GPU";
  for (const char* more : {"--ranks 1", "--ranks 2", "--ranks 2 --comm mpi"})
    expect_refused(std::string(kQuickComm) + "--device cuda " + more, 2, "CUDA");
}

void expect_sound_communication(const json& all, int ranks, double mean_ms) {
  if (ranks == 1) {
    for (const char* part : {"hidden", "exposed", "total"})
      EXPECT_TRUE(all[part].is_null()) << part;
    EXPECT_THAT(all["why_unknown"].get<std::string>(), HasSubstr("one rank"));
    return;
  }
  EXPECT_FALSE(all.contains("why_unknown"));
  const auto sum = [](double a, double b) { return ::testing::DoubleNear(a + b, 1e-9); };
  for (const json& split : {all, all["reduce"], all["gather"]})
    EXPECT_THAT(split["total"].get<double>(), sum(split["hidden"], split["exposed"]));
  for (const char* part : {"hidden", "exposed", "total"})
    EXPECT_THAT(all[part].get<double>(), sum(all["reduce"][part], all["gather"][part]));
  EXPECT_GT(all["reduce"]["hidden"], 0.0) << "of launches and progress";
  EXPECT_GT(all["gather"]["total"], 0.0);
  EXPECT_LE(all["total"], mean_ms * 1.001);
}

void expect_sound_step(const json& line, int ranks) {
  EXPECT_EQ(line["bench"], "step");
  EXPECT_EQ(line["config"], "tiny");
  EXPECT_EQ(line["ranks"], ranks);
  EXPECT_EQ(line["rounds"], 2 / ranks);
  EXPECT_EQ(line["steps"], 4);
  EXPECT_EQ(line["applied_steps"], 4);
  EXPECT_EQ(line["tokens_per_step"], 128.0);
  EXPECT_NEAR(line["first_loss"], std::log(256.0), 0.2) << "of uniform tokens";
  const double step_ms = line["step_ms"];
  EXPECT_GT(step_ms, 0.0);
  EXPECT_NEAR(line["tokens_per_second"], 128.0 / step_ms * 1e3, 1e-3);
  double phases = 0.0;
  for (const auto& [phase, milliseconds] : line["phases_ms"].items()) {
    EXPECT_GE(milliseconds, 0.0) << phase;
    phases += milliseconds.get<double>();
  }
  EXPECT_GT(line["phases_ms"]["forward"], 0.0);
  EXPECT_GT(line["phases_ms"]["backward"], 0.0);
  EXPECT_GT(line["phases_ms"]["update"], 0.0);
  // Phases cover the steps, and nothing but them. The time is of the slowest rank.
  const double mean_ms = 128.0 / line["mean_tokens_per_second"].get<double>() * 1e3;
  EXPECT_LE(phases, mean_ms * 1.001);
  EXPECT_GE(phases, mean_ms * 0.5);
  expect_sound_communication(line["communication_ms"], ranks, mean_ms);
  const double parameters = line["parameters"];
  const json& mfu = line["mfu"];
  EXPECT_EQ(mfu["6N+6LCT causal"]["flop_per_token"], 6 * parameters + 6.0 * 2 * 64 * 32);
  EXPECT_EQ(mfu["PaLM 6N+12LCT"]["flop_per_token"], 6 * parameters + 12.0 * 2 * 64 * 32);
  EXPECT_GT(mfu["PaLM 6N+12LCT"]["of_measured_peak"], 0.0);
  EXPECT_LT(mfu["PaLM 6N+12LCT"]["of_measured_peak"], 10.0);  // on a machine with other work
  EXPECT_TRUE(mfu["PaLM 6N+12LCT"]["of_datasheet_peak"].is_null());
  EXPECT_GT(line["memory"]["peak_bytes"], 0);
  EXPECT_LE(line["memory"]["peak_bytes"], line["memory"]["planned_bytes"]);
  EXPECT_GT(line["memory"]["regions"]["activations"]["peak_bytes"], 0);
}

TEST_F(BenchTest, StepMeasuresTrainingAndLeavesNothingBehind) {
  write_config();
  const std::vector<json> lines = lines_of("step tiny.yaml --synthetic --steps 4 --warmup 1");
  ASSERT_EQ(lines.size(), 1U);
  expect_sound_step(lines[0], 1);
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "scratch"));
  const CommandResult table =
      run("step tiny.yaml --synthetic --steps 1 --warmup 0 --set run.reproducible=none -o table");
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("MFU 6N+6LCT causal"));
  EXPECT_THAT(table.out, HasSubstr("one rank has nobody"));
  EXPECT_THAT(table.out, HasSubstr("reproducible none"));
}

TEST_F(BenchTest, StepMeasuresSeveralRanks) {
  write_config();
  const std::vector<json> lines =
      lines_of("step tiny.yaml --ranks 2 --synthetic --steps 4 --warmup 1");
  ASSERT_EQ(lines.size(), 1U);
  expect_sound_step(lines[0], 2);
  const CommandResult table =
      run("step tiny.yaml --ranks 2 --synthetic --steps 1 --warmup 0 -o table");
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("(hidden "));
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "scratch"));
}

TEST_F(BenchTest, StepRefusesWhatTrainingWould) {
  write_config();
  expect_refused("step missing.yaml", 2, "missing.yaml");
  expect_refused("step tiny.yaml --synthetic --ranks 3", 2, "rank counts that fit");
  expect_refused("step tiny.yaml", 3, "missing.bin");
  expect_refused("step tiny.yaml --synthetic --set memory.limit_mib=1", 6, "memory.limit_mib");
  expect_refused("step tiny.yaml --synthetic --steps 0", 2, "--steps");
  EXPECT_TRUE(std::filesystem::is_empty(directory_ / "scratch"));
}

}  // namespace
}  // namespace lockstep::launcher
