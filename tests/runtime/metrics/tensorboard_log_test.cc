#include "runtime/metrics/tensorboard_log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "lockstep/tensorboard/event.pb.h"
#include "runtime/metrics/record_file.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::runtime {
namespace {

namespace fs = std::filesystem;
using lockstep::tensorboard::Event;

std::string bytes_of(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

// RFC 3720, B.4, and what other writers of such records write.
TEST(RecordFile, ChecksumsAndFramingAreThoseOfOtherWriters) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(masked_crc32c("123456789"), 0xc78ab0e5U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(masked_crc32c(std::string(32, '\0')), 0x0fd7fffaU);
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(masked_crc32c(""), 0xa282ead8U);
  Event scalar;
  scalar.set_wall_time(1.5);
  scalar.set_step(7);
  auto* value = scalar.mutable_summary()->add_value();
  value->set_tag("a");
  value->set_simple_value(0.5F);
  EXPECT_EQ(framed_record(scalar.SerializeAsString()),
            bytes_of("1700000000000000e7cef81e09000000000000f83f10072a0a0a080a0161150000003f"
                     "6fd64f8c"));
  Event start;
  start.set_wall_time(2.0);
  start.set_step(6);
  start.mutable_session_log()->set_status(lockstep::tensorboard::SessionLog::START);
  EXPECT_EQ(framed_record(start.SerializeAsString()),
            bytes_of("0f000000000000006d532b0909000000000000004010063a020801b3e1059a"));
}

class TensorBoardLogTest : public ::testing::Test {
 protected:
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(directory_.path()))
      found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
  }

  std::vector<Event> events() const {
    std::vector<Event> found;
    for (const fs::path& path : files()) {
      const std::uint64_t end =
          visit_records(path.string(), [&](std::string_view data, std::uint64_t) {
            Event event;
            EXPECT_TRUE(event.ParseFromArray(data.data(), static_cast<int>(data.size())));
            found.push_back(event);
            return true;
          });
      EXPECT_EQ(end, fs::file_size(path)) << path << " has a record that is not whole";
    }
    return found;
  }

  // By tag: the steps, in the order of a reader.
  std::map<std::string, std::vector<std::int64_t>> steps() const {
    std::map<std::string, std::vector<std::int64_t>> found;
    for (const Event& event : events()) {
      for (const auto& value : event.summary().value())
        found[value.tag()].push_back(event.step());
    }
    return found;
  }

  static void write_step(TensorBoardLog& log, std::int64_t step) {
    StepMetrics m;
    m.step = step;
    m.applied = true;
    m.loss = 5.0 - 0.1 * static_cast<double>(step);
    m.grad_norm = std::numeric_limits<double>::infinity();
    m.learning_rate = 1e-3;
    m.tokens = 100;
    m.step_seconds = 0.5;
    log.step(m);
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(TensorBoardLogTest, EveryFileBeginsWithVersionAndStart) {
  TensorBoardLog log(directory_.path().string());
  log.open(1, "run: {}\n");
  write_step(log, 1);
  const std::vector<Event> found = events();
  ASSERT_EQ(found.size(), 4U);
  EXPECT_EQ(found[0].file_version(), "brain.Event:2");
  EXPECT_EQ(found[1].session_log().status(), lockstep::tensorboard::SessionLog::START);
  EXPECT_EQ(found[1].step(), 1);
  EXPECT_EQ(found[2].summary().value(0).tensor().string_val(0), "```yaml\nrun: {}\n```\n");
  EXPECT_EQ(steps().count("train/grad_norm"), 0U) << "not finite";
  EXPECT_EQ(found[3].summary().value(0).tag(), "train/loss");
  EXPECT_FLOAT_EQ(found[3].summary().value(0).simple_value(), 4.9F);
}

TEST_F(TensorBoardLogTest, AResumeNeitherDoublesNorLosesSteps) {
  {
    TensorBoardLog log(directory_.path().string());
    log.open(1, "a: 1\n");
    for (std::int64_t step = 1; step <= 10; ++step) {
      write_step(log, step);
      if (step % 4 == 0) log.validation(step, 3.0, {});
    }
  }
  // Killed within a record.
  std::ofstream(files().front(), std::ios::app | std::ios::binary) << "\x17\0\0\0torn";
  TensorBoardLog log(directory_.path().string());
  log.open(8, "a: 2\n");
  for (std::int64_t step = 8; step <= 12; ++step)
    write_step(log, step);
  const auto found = steps();
  EXPECT_EQ(found.at("train/loss"),
            (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_EQ(found.at("validation/loss"), (std::vector<std::int64_t>{4}));

  // Back within the run, to before the present file, whose steps are all gone then.
  log.open(5, "a: 3\n");
  write_step(log, 5);
  EXPECT_EQ(steps().at("train/loss"), (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(files().size(), 2U);
  log.open(1, "a: 4\n");
  EXPECT_EQ(steps().count("train/loss"), 0U);
  EXPECT_EQ(files().size(), 1U);
}

TEST_F(TensorBoardLogTest, LayersAndHistograms) {
  LayerReport report;
  report.step = 3;
  report.unit = 0.5;
  Measured block;
  block.name = "block.0";
  block.grad_norm = 2.0;
  report.layers.push_back(block);
  block.name = "block.0.mlp.up.weight";
  report.tensors.push_back(block);
  report.histograms.push_back({6, 1, -2, {1, 0}, {3, 1}});
  TensorBoardLog log(directory_.path().string());
  log.open(1, "");
  log.layers(report);
  log.histograms(report);
  const std::vector<Event> found = events();
  const Event& layers = found.at(3);
  ASSERT_EQ(layers.summary().value_size(), 1) << "what is not finite is left out";
  EXPECT_EQ(layers.summary().value(0).tag(), "layers/block.0/grad_norm");
  const auto& value = found.at(4).summary().value(0);
  EXPECT_EQ(value.tag(), "histograms/block.0.mlp.up.weight");
  EXPECT_EQ(value.metadata().plugin_data().plugin_name(), "histograms");
  const auto& rows = value.tensor().double_val();
  EXPECT_EQ(std::vector<double>(rows.begin(), rows.end()),
            (std::vector<double>{-0.5, -0.25, 0, -0.25, -0.125, 1, -0.125, 0.125, 1, 0.125, 0.25, 3,
                                 0.25, 0.5, 1}));
  EXPECT_EQ(value.tensor().tensor_shape().dim(0).size(), 5);
  EXPECT_EQ(value.tensor().tensor_shape().dim(1).size(), 3);
}

}  // namespace
}  // namespace lockstep::runtime
