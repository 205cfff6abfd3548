#include <fstream>

#include "tests/coordinator/engine/engine_fixture.h"

namespace lockstep::coordinator::testing {
namespace {

class Create : public EngineTest {};

TEST_F(Create, F1_TheSameRequestIdIsOneRun) {
  const CreateRequest same = request("a");
  const CreateResult first = engine_->create(same, caller_);
  const CreateResult second = engine_->create(same, caller_);
  EXPECT_FALSE(first.replayed);
  EXPECT_TRUE(second.replayed);
  EXPECT_EQ(first.run->run.id, second.run->run.id);
  restart();
  EXPECT_TRUE(engine_->create(same, caller_).replayed);
  EXPECT_EQ(engine_->list().size(), 1U);
  CreateRequest other = same;
  other.priority = 3;
  EXPECT_EQ(refusal_of([&] { engine_->create(other, caller_); }), "REQUEST_ID_REUSED");
}

TEST_F(Create, ARunKeepsWhatItWasMadeOf) {
  CreateRequest full = request("a");
  full.labels["team"] = "x";
  full.notes = "a note";
  full.priority = 5;
  full.overrides = {"train.steps=7"};
  full.config_source = "mine.yaml";
  const std::string id = submit(full);
  const std::string before = canonical_text(*engine_->find(id));
  const std::string resolved = run(id).texts->resolved_config;
  restart();
  EXPECT_EQ(canonical_text(*engine_->find(id)), before);
  EXPECT_EQ(run(id).texts->resolved_config, resolved);
  EXPECT_EQ(run(id).texts->config_source, "mine.yaml");
  EXPECT_NE(resolved.find("steps: 7"), std::string::npos);
  EXPECT_EQ(id.size(), 26U);
}

TEST_F(Create, ASubmitWhoseDataFilesAreMissingIsRefused) {
  EXPECT_EQ(refusal_of([&] { submit("a"); }), "") << "not asked to look";
  options_.check_data = true;
  restart();
  try {
    engine_->create(request("b"), caller_);
    FAIL() << "not refused";
  } catch (const EngineError& error) {
    EXPECT_EQ(error.reason(), "INVALID_CONFIG");
    EXPECT_NE(std::string(error.what()).find("/none/train.bin"), std::string::npos) << error.what();
  }
  CreateRequest there = request("c");
  const std::string tokens = directory_.write("train.bin", std::string(4096, '\x01')).string();
  there.overrides = {"data.train=" + tokens, "model.vocab=512"};
  const std::string id = submit(there);
  CreateRequest weights = request("d");
  weights.overrides = there.overrides;
  weights.overrides.push_back("model.init_from=/none/weights");
  EXPECT_EQ(refusal_of([&] { engine_->create(weights, caller_); }), "INVALID_CONFIG");
  weights.after = {id};
  EXPECT_EQ(refusal_of([&] { engine_->create(weights, caller_); }), "") << "that run may make them";
}

TEST_F(Create, OnlyVariablesThatRunsMaySetAreTaken) {
  CreateRequest with = request("a");
  with.environment = {{"NCCL_DEBUG", "INFO"}};
  EXPECT_EQ(refusal_of([&] { engine_->create(with, caller_); }), "INVALID_FIELD");
  options_.environment.runs = {"NCCL_*"};
  options_.environment.pass = {"LOCKSTEP_CREATE_TEST", "CREATE_TEST_*"};
  ::setenv("CREATE_TEST_PASSED", "a value", 1);
  ::setenv("LOCKSTEP_CREATE_TEST", "never", 1);
  restart();
  const std::string id = submit(with);
  CreateRequest steering = request("b");
  steering.environment = {{"LD_PRELOAD", "/x.so"}};
  EXPECT_EQ(refusal_of([&] { engine_->create(steering, caller_); }), "INVALID_FIELD");
  engine_->tick();
  const auto& environment = process(id).spec.environment;
  EXPECT_EQ(environment.at("NCCL_DEBUG"), "INFO");
  EXPECT_EQ(environment.at("CREATE_TEST_PASSED"), "a value");
  EXPECT_FALSE(environment.contains("LOCKSTEP_CREATE_TEST"));
  restart();
  EXPECT_EQ(run(id).environment, with.environment);
  ::unsetenv("CREATE_TEST_PASSED");
  ::unsetenv("LOCKSTEP_CREATE_TEST");
}

TEST_F(Create, PrioritiesAreCappedByWhatTheCallerMayGive) {
  Caller capped{"ci", "unix"};
  capped.max_priority = 10;
  CreateRequest high = request("a");
  high.priority = 11;
  EXPECT_EQ(refusal_of([&] { engine_->create(high, capped); }), "INVALID_FIELD");
  high.priority = 10;
  const std::string id = engine_->create(high, capped).run->run.id;
  UpdateRequest more;
  more.run = id;
  more.priority = 500;
  EXPECT_EQ(refusal_of([&] { engine_->update(more, capped); }), "INVALID_FIELD");
  engine_->update(more, caller_);
  more.priority = 400;
  EXPECT_EQ(refusal_of([&] { engine_->update(more, capped); }), "") << "less than it has";
  engine_->cancel({id, "", false, kSecond, ""}, caller_);
  const RunPtr child = engine_->retry({id, {}, true, ""}, capped);
  EXPECT_EQ(child->run.priority, 10);
}

TEST_F(Create, AWrongConfigurationIsRefusedWithItsPlaces) {
  CreateRequest wrong = request("a");
  wrong.config_yaml += "trian: {steps: 5}\n";
  wrong.overrides = {"batch.global=7"};
  try {
    engine_->create(wrong, caller_);
    FAIL() << "not refused";
  } catch (const EngineError& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_EQ(error.reason(), "INVALID_CONFIG");
    ASSERT_FALSE(error.violations().empty());
    EXPECT_EQ(error.violations()[0].field, "run.config_yaml");
    EXPECT_NE(error.violations()[0].description.find("config.yaml:7:"), std::string::npos)
        << error.violations()[0].description;
  }
  EXPECT_TRUE(engine_->list().empty());
  EXPECT_EQ(engine_->audit_events(0, 10).back().result, "INVALID_ARGUMENT");
}

TEST_F(Create, ValidateOnlyTellsAllAndStoresNothing) {
  CreateRequest dry = request("a", 4);
  dry.validate_only = true;
  const CreateResult free = engine_->create(dry, caller_);
  EXPECT_EQ(free.placements, (std::vector<Placement>{{"h1", {0, 1, 2, 3}}}));
  EXPECT_GT(free.memory_bytes_per_rank, 0);
  EXPECT_FALSE(free.memory_table.empty());
  EXPECT_TRUE(free.run->run.id.empty());
  running("b", 4);
  dry.resources.hosts = {"h1"};
  const CreateResult full = engine_->create(dry, caller_);
  EXPECT_TRUE(full.placements.empty());
  ASSERT_FALSE(full.pending_reasons.empty());
  EXPECT_EQ(engine_->list().size(), 1U);
}

TEST_F(Create, WhatCanNeverFitIsRefused) {
  EXPECT_EQ(refusal_of([&] { submit("a", 8); }), "CANNOT_FIT");  // 6 slots in all
  CreateRequest unknown = request("b", 1);
  unknown.resources.hosts = {"h9"};
  EXPECT_EQ(refusal_of([&] { submit(unknown); }), "CANNOT_FIT");
}

TEST_F(Create, TwoRunsDoNotShareAnOutput) {
  const std::string id = submit("a");
  CreateRequest second = request("b");
  second.config_yaml = request("a").config_yaml;
  EXPECT_EQ(refusal_of([&] { submit(second); }), "OUTPUT_IN_USE");
  engine_->cancel({id, "", false, kSecond, ""}, caller_);
  submit(second);

  CreateRequest third = request("c");
  std::filesystem::create_directories(output("c"));
  std::ofstream(output("c") + "/metrics.jsonl") << "{}\n";
  EXPECT_EQ(refusal_of([&] { submit(third); }), "OUTPUT_IN_USE");
}

TEST_F(Create, AnOutputInsideTheStateDirectoryIsRefused) {
  const std::string state = (directory_ / "state").string();
  std::filesystem::create_directory_symlink(state, directory_ / "link");
  for (const std::string& output :
       {state, state + "/runs/x", (directory_ / "link/out").string(), directory_.path().string()}) {
    CreateRequest bad = request("a");
    bad.overrides = {"run.output=" + output};
    EXPECT_EQ(refusal_of([&] { submit(bad); }), "INVALID_FIELD") << output;
  }
  submit("a");
}

TEST_F(Create, ANameIsAsGoodAsAnId) {
  const std::string first = submit("nightly");
  EXPECT_EQ(engine_->find("nightly")->run.id, first);
  EXPECT_EQ(engine_->find(first.substr(0, 20))->run.id, first);
  CreateRequest again = request("nightly");
  again.request_id = "again";
  again.overrides = {"run.output=" + output("again")};
  const std::string second = submit(again);
  EXPECT_EQ(refusal_of([&] { engine_->find("nightly"); }), "AMBIGUOUS_RUN");
  engine_->cancel({first, "", false, kSecond, ""}, caller_);
  EXPECT_EQ(engine_->find("nightly")->run.id, second) << "the one that has not ended";
  engine_->cancel({"nightly", "", false, kSecond, ""}, caller_);
  EXPECT_EQ(state(second), RunState::kCancelled);
  EXPECT_EQ(refusal_of([&] { engine_->find("nightly"); }), "AMBIGUOUS_RUN");
  CreateRequest after = request("follows");
  after.hold = true;
  const std::string follows = submit(after);
  CreateRequest dependent = request("last");
  dependent.after = {"follows"};
  EXPECT_EQ(run(submit(dependent)).after, std::vector<std::string>{follows});
}

TEST_F(Create, TheQueueHasALimit) {
  options_.max_queued = 2;
  restart();
  submit("a");
  submit("b");
  EXPECT_EQ(refusal_of([&] { submit("c"); }), "QUEUE_FULL");
  // F6: that stops nobody from cancelling.
  const std::string first = engine_->list()[0]->run.id;
  EXPECT_EQ(engine_->cancel({first, "", false, kSecond, ""}, caller_)->run.state,
            RunState::kCancelled);
  submit("c");
}

TEST_F(Create, ARunWaitsForThoseItFollows) {
  const std::string first = submit("a");
  CreateRequest after = request("b");
  after.after = {first};
  const std::string second = submit(after);
  EXPECT_EQ(state(second), RunState::kWaiting);
  EXPECT_EQ(engine_->explain(second).reasons.at(0).reason, "DEPENDENCY");
  bring_up(first);
  end(first, FailureCategory::kDone);
  engine_->tick();
  EXPECT_TRUE(state(second) == RunState::kQueued || state(second) == RunState::kStarting);
  after.after = {"nobody"};
  after.request_id = "";
  EXPECT_EQ(refusal_of([&] { submit(after); }), "INVALID_FIELD");
}

TEST_F(Create, ARunWhoseDependencyFailedFails) {
  const std::string first = submit("a");
  CreateRequest after = request("b");
  after.after = {first};
  after.hold = true;
  const std::string second = submit(after);
  engine_->cancel({first, "", false, kSecond, ""}, caller_);
  engine_->tick();
  EXPECT_EQ(state(second), RunState::kFailed);
  EXPECT_EQ(run(second).result->category, FailureCategory::kDependency);
}

TEST_F(Create, ARetryFromTheStartGetsAnOutputOfItsOwn) {
  const std::string id = in_state(RunState::kFailed, "a");
  const auto child = engine_->retry({id, {"train.steps=9"}, true, ""}, caller_)->run;
  EXPECT_EQ(child.output, output("a") + ".2");
  EXPECT_EQ(child.resume_from, "never");
  EXPECT_EQ(child.parent_run, id);
}

TEST_F(Create, ARetryIntoAnotherOutputGoesOnFromACheckpointOfTheParent) {
  const std::string id = in_state(RunState::kFailed, "a");
  const std::vector<std::string> overrides = {"run.output=" + output("b")};
  EXPECT_EQ(refusal_of([&] {
              engine_->retry({id, overrides, false, ""}, caller_);
            }),
            "NO_CHECKPOINT");
  checkpoints_.add(output("a"), 4);
  const auto child = engine_->retry({id, overrides, false, ""}, caller_)->run;
  EXPECT_EQ(child.resume_from, output("a") + "/checkpoints/step-4");
}

TEST_F(Create, WrongFieldsAreAllNamed) {
  CreateRequest wrong = request("a", 0);
  wrong.priority = 5000;
  wrong.time_limit_ns = -1;
  try {
    engine_->create(wrong, caller_);
    FAIL() << "not refused";
  } catch (const EngineError& error) {
    EXPECT_EQ(error.violations().size(), 3U);
  }
}

}  // namespace
}  // namespace lockstep::coordinator::testing
