#include "coordinator/attempts/stop_ladder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::coordinator {
namespace {

constexpr std::int64_t kTick = kSecond / 10;

const char* name(LadderAction action) {
  switch (action) {
    case LadderAction::kAskRanks:
      return "ask";
    case LadderAction::kTerminateRanks:
      return "term";
    case LadderAction::kKillRanks:
      return "kill";
    case LadderAction::kTerminateLauncher:
      return "end-mpirun";
    case LadderAction::kKillLauncher:
      return "kill-mpirun";
    case LadderAction::kKillEverything:
      return "sweep";
  }
  return "?";
}

// Runs the ladder over time; a process answers to the action named in `mortal` (empty: to none).
struct World {
  StopLadder ladder{0};
  LadderFacts facts{.ranks_seen = true,
                    .ranks_alive = true,
                    .launcher_alive = true,
                    .anything_alive = true,
                    .first_rank_end_ns = 0};
  std::string ranks_die_of = "kill";
  std::string launcher_dies_of = "kill-mpirun";
  std::string rest_dies_of = "sweep";
  std::int64_t now = kSecond;
  std::vector<std::string> story;  // each new action, with the second of its first time

  void run(int seconds) {
    for (const std::int64_t end = now + seconds * kSecond; now < end && !ladder.finished();
         now += kTick) {
      const auto action = ladder.advance(facts, now);
      if (!action) continue;
      const std::string did = name(*action);
      const std::string entry = did + "@" + std::to_string((now - kSecond) / kSecond);
      if (story.empty() || !story.back().starts_with(did + "@")) story.push_back(entry);
      if (did == ranks_die_of) facts.ranks_alive = false;
      if (did == launcher_dies_of) facts.launcher_alive = false;
      if (did == rest_dies_of)
        facts.anything_alive = facts.ranks_alive = facts.launcher_alive = false;
    }
  }
};

using Story = std::vector<std::string>;

TEST(StopLadder, GoesDownToTheLastRungWhenNothingHelps) {
  World world;
  world.rest_dies_of = "";
  world.ranks_die_of = world.launcher_dies_of = "";
  world.ladder.request({}, world.now);
  world.run(120);
  EXPECT_EQ(world.story,
            (Story{"ask@0", "term@30", "kill@40", "end-mpirun@45", "kill-mpirun@48", "sweep@50"}));
  EXPECT_FALSE(world.ladder.finished());
  EXPECT_TRUE(world.ladder.gave_up());
}

TEST(StopLadder, LeavesOutWhatIsNotNeeded) {
  World world;
  world.ranks_die_of = "ask";
  world.ladder.request({}, world.now);
  world.run(1);
  world.facts.launcher_alive = false;
  world.facts.anything_alive = false;
  world.run(1);
  EXPECT_EQ(world.story, (Story{"ask@0"}));
  EXPECT_TRUE(world.ladder.finished());
}

TEST(StopLadder, ForceBeginsAtKillAndNeverGoesUpAgain) {
  World world;
  world.ladder.request({}, world.now);
  world.run(1);
  StopRequest force;
  force.force = true;
  world.ladder.request(force, world.now);
  EXPECT_EQ(world.ladder.rung(), StopRung::kKill);
  world.ladder.request({}, world.now);
  EXPECT_EQ(world.ladder.rung(), StopRung::kKill);
  world.run(30);
  EXPECT_EQ(world.story, (Story{"ask@0", "kill@1", "end-mpirun@4", "kill-mpirun@7", "sweep@7"}));
}

TEST(StopLadder, NothingIsAskedOfRanksThatAreNotThereYet) {
  World world;
  world.facts.ranks_seen = world.facts.ranks_alive = false;
  world.ladder.request({}, world.now);
  world.run(30);
  EXPECT_EQ(world.story.front(), "end-mpirun@0");
}

TEST(StopLadder, WhatMpirunLeavesBehindIsSweptAfterItsLastWords) {
  World world;
  world.facts.launcher_alive = false;
  world.run(30);
  EXPECT_EQ(world.story, (Story{"sweep@0"}));
  EXPECT_TRUE(world.ladder.finished());
}

TEST(StopLadder, AnMpirunThatOutlivesARankForTenSecondsIsStuck) {
  World world;
  world.facts.first_rank_end_ns = world.now;
  world.run(9);
  EXPECT_EQ(world.story, Story{});
  world.run(10);
  EXPECT_EQ(world.story.front(), "kill@10");
}

TEST(StopLadder, AShorterGraceHolds) {
  World world;
  world.ladder.request({}, world.now);
  world.run(5);
  StopRequest shorter;
  shorter.grace_ns = 2 * kSecond;
  world.ladder.request(shorter, world.now);
  world.run(30);
  EXPECT_EQ(world.story.at(1), "term@7");
}

}  // namespace
}  // namespace lockstep::coordinator
