// F8: a retry goes on from the newest checkpoint that is whole, whatever has become of newer ones.
// LOCKSTEP_DAMAGED_FILES (default: 1) of the files of the newest one are damaged in each way, each
// in a run of its own; LOCKSTEP_DAMAGE_SEED chooses files and places.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <random>
#include <sstream>

#include "tests/coordinator/system/undisturbed_test.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

enum class Damage { kTorn, kEmpty, kBitFlipped, kMissing, kWithoutManifest };

const char* name_of(Damage damage) {
  switch (damage) {
    case Damage::kTorn:
      return "Torn";
    case Damage::kEmpty:
      return "Empty";
    case Damage::kBitFlipped:
      return "BitFlipped";
    case Damage::kMissing:
      return "Missing";
    case Damage::kWithoutManifest:
      return "WithoutManifest";
  }
  return "";
}

class F8_RetryGoesOnFromTheNewestVerifiedCheckpoint : public Undisturbed,
                                                      public ::testing::WithParamInterface<Damage> {
 protected:
  static constexpr int kNewest = 30;
  static constexpr int kBefore = 20;

  // Trains `output` up to behind the checkpoint of step kNewest and keeps it there: seconds of
  // sleep leave the time for it to be written, and then to act, and with a rank stopped no further
  // checkpoint comes.
  std::string held_behind_the_newest(const std::string& output) {
    const std::string run = submit(output, {"--set", sleeps(kNewest + 3, kNewest + 6)});
    wait_for_step(output, kNewest + 4);
    kill(rank_of(run, 1), SIGSTOP);
    return run;
  }

  // The files of a checkpoint that its manifest vouches for, or the manifest; by name.
  std::vector<fs::path> files_of(const std::string& output) const {
    std::vector<fs::path> files;
    for (const auto& file : fs::directory_iterator(checkpoint_directory(output, kNewest))) {
      const std::string name = file.path().filename().string();
      if (name == "healthy") continue;  // a mark, without which it is as whole
      if ((name == "manifest.json") == (GetParam() == Damage::kWithoutManifest)) {
        files.push_back(file.path());
      }
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  // What was done, for people.
  std::string damage(const fs::path& file, std::mt19937& random) const {
    const std::uintmax_t size = fs::file_size(file);
    std::string done = fmt::format("{} of {} bytes: ", file.filename().string(), size);
    if (GetParam() == Damage::kTorn) {
      const std::uintmax_t left = 1 + random() % (size - 1);
      fs::resize_file(file, left);
      return done + fmt::format("{} left", left);
    }
    if (GetParam() == Damage::kEmpty) fs::resize_file(file, 0);
    if (GetParam() == Damage::kMissing || GetParam() == Damage::kWithoutManifest) fs::remove(file);
    if (GetParam() != Damage::kBitFlipped) return done + "gone";
    std::string bytes = read_file(file);
    const std::size_t at = random() % bytes.size();
    const unsigned bit = random() % 8;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
    directory_.write(fs::relative(file, directory_.path()).string(), bytes);
    return done + fmt::format("bit {} of byte {}", bit, at);
  }

  // Damages a file of the newest checkpoint and lets rank 1 die.
  void expect_passed_over(const std::string& output, const fs::path& name, std::mt19937& random) {
    const std::string run = held_behind_the_newest(output);
    const std::string newest = fmt::format("step-{:08}", kNewest);
    SCOPED_TRACE(damage(path(output) / "checkpoints" / newest / name, random));
    expect_reported(run);
    kill(rank_of(run, 1), SIGKILL);
    EXPECT_EQ(job({"wait", run}).exit_code, 0);
    EXPECT_EQ(show(run)["restartCount"], 1);
    const auto resumed = metrics(output, "resume");
    ASSERT_FALSE(resumed.empty());
    EXPECT_EQ(resumed.front()["step"], kBefore) << resumed.front().dump();
    EXPECT_THAT(job({"logs", run, "--attempt", "2"}).out, HasSubstr(newest))
        << "that it was passed over is told";
    expect_undisturbed(output);
  }

  // Whoever asks is told what is wrong with the newest one, and that the one before is whole.
  void expect_reported(const std::string& run) const {
    bool seen = false;
    const auto listed = json({"runs", "checkpoints", run, "--verify"});
    for (const auto& checkpoint : listed) {
      const int step = std::stoi(checkpoint["step"].get<std::string>());
      if (step == kBefore) {
        EXPECT_EQ(checkpoint["verified"], true) << checkpoint.dump();
      }
      if (step != kNewest) continue;
      seen = true;
      EXPECT_EQ(checkpoint["verified"], false) << checkpoint.dump();
      EXPECT_NE(checkpoint["problem"], "") << checkpoint.dump();
    }
    EXPECT_TRUE(seen) << listed.dump();
  }
};

TEST_P(F8_RetryGoesOnFromTheNewestVerifiedCheckpoint, ADamagedOneIsPassedOverAndReported) {
  const int seed = loops("LOCKSTEP_DAMAGE_SEED", 20261127);
  SCOPED_TRACE(seed);
  std::mt19937 random(static_cast<unsigned>(seed) + static_cast<unsigned>(GetParam()));
  start();
  std::vector<fs::path> files = files_of("undisturbed");
  ASSERT_FALSE(files.empty());
  std::shuffle(files.begin(), files.end(), random);
  const auto most = static_cast<std::size_t>(loops("LOCKSTEP_DAMAGED_FILES", 1));
  for (std::size_t i = 0; i < std::min(most, files.size()); ++i)
    expect_passed_over("run" + std::to_string(i), files[i].filename(), random);
}

INSTANTIATE_TEST_SUITE_P(Damages, F8_RetryGoesOnFromTheNewestVerifiedCheckpoint,
                         ::testing::Values(Damage::kTorn, Damage::kEmpty, Damage::kBitFlipped,
                                           Damage::kMissing, Damage::kWithoutManifest),
                         [](const auto& damage) { return name_of(damage.param); });

class F8_RetryOfAFailedRun : public Undisturbed {};

TEST_F(F8_RetryOfAFailedRun, GoesOnFromItsCheckpoint) {
  start();
  const std::string failed =
      submit("run", {"--max-restarts", "-1", "--set", "fault=[{kind: kill, step: 25, rank: 1}]"});
  EXPECT_EQ(job({"wait", failed}).exit_code, 1);
  const CommandResult retried = job({"retry", failed, "--set", "fault=null", "-o", "name"});
  const std::string run = submitted({}, retried);
  EXPECT_EQ(job({"wait", run}).exit_code, 0);
  EXPECT_EQ(show(run)["parentRun"], failed);
  EXPECT_EQ(state(failed), "FAILED") << "an ended run never opens again";
  expect_undisturbed("run");
}

}  // namespace
}  // namespace lockstep::testing
