// A client of another language, with code made from the published .proto files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) throw std::runtime_error(std::string(name) + " is not set, as ctest does");
  return value;
}

class PythonClient : public JobControlTest {
 protected:
  void SetUp() override {
    JobControlTest::SetUp();
    const std::string proto = variable("LOCKSTEP_SOURCE_DIR") + "/coordinator/proto";
    const std::string out = path("python").string();
    std::filesystem::create_directories(out);
    const CommandResult made = run_command(
        {variable("LOCKSTEP_PROTOC"), "-I" + proto, "--python_out=" + out, "--grpc_out=" + out,
         "--plugin=protoc-gen-grpc=" + variable("LOCKSTEP_GRPC_PYTHON_PLUGIN"),
         "lockstep/v1/run.proto", "lockstep/v1/run_service.proto"},
        command_options({}));
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }

  CommandResult python(const std::vector<std::string>& arguments) const {
    std::vector<std::string> command = {
        variable("LOCKSTEP_PYTHON"),
        variable("LOCKSTEP_SOURCE_DIR") + "/tests/system/python_client.py",
        "unix:" + path("socket").string()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    CommandOptions options = command_options({});
    options.environment["PYTHONPATH"] = path("python").string();
    options.environment["PYTHONDONTWRITEBYTECODE"] = "1";
    options.timeout = std::chrono::seconds(120);
    return run_command(command, options);
  }
};

TEST_F(PythonClient, SubmitsAndWatchesARun) {
  start();
  ASSERT_EQ(job({"admin", "info"}).exit_code, 0);
  const CommandResult result = python(
      {"submit", path("config.yaml").string(), path("tokens.bin").string(), path("run").string()});
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("event submitted"));
  EXPECT_THAT(result.out, HasSubstr("state RUNNING"));
  EXPECT_THAT(result.out, HasSubstr("state SUCCEEDED"));
  EXPECT_THAT(result.out, HasSubstr("log step 60/60"));
  EXPECT_TRUE(std::filesystem::exists(path("run") / "metrics.jsonl"));
}

TEST_F(PythonClient, GetsErrorsWithFields) {
  start();
  ASSERT_EQ(job({"admin", "info"}).exit_code, 0);
  const CommandResult result = python({"wrong"});
  ASSERT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(result.out, HasSubstr("bad.yaml:1:1"));
  EXPECT_THAT(result.out, HasSubstr("NOT_FOUND"));
}

}  // namespace
}  // namespace lockstep::testing
