#include "tests/coordinator/engine/engine_fixture.h"

namespace lockstep::coordinator::testing {
namespace {

class Tokens : public EngineTest {};

TEST_F(Tokens, S3_AreShownOnceKeptAsHashesAndRevocable) {
  const CreatedToken made = engine_->create_token({"ci", {"submit", "read"}, 0, ""}, caller_);
  EXPECT_EQ(made.secret.size(), 9U + 64U);  // 256 bits
  EXPECT_EQ(made.token.scopes, (std::vector<std::string>{"read", "submit"}));
  EXPECT_EQ(engine_->authenticate(made.secret), made.token);
  EXPECT_EQ(engine_->authenticate(made.secret + "0"), std::nullopt);
  EXPECT_EQ(engine_->authenticate(""), std::nullopt);
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(options_.state_directory)) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(lockstep::testing::read_file(entry.path()).find(made.secret), std::string::npos)
        << entry.path();
  }
  const std::int64_t generation = engine_->token_generation();
  EXPECT_TRUE(engine_->revoke_token("ci", "", caller_).revoked);
  EXPECT_EQ(engine_->authenticate(made.secret), std::nullopt);
  EXPECT_GT(engine_->token_generation(), generation);
  restart();
  EXPECT_EQ(engine_->authenticate(made.secret), std::nullopt);
  EXPECT_TRUE(engine_->tokens().at(0).revoked);
}

TEST_F(Tokens, S3_Expire) {
  const CreatedToken made = engine_->create_token({"ci", {"read"}, 60 * kSecond, ""}, caller_);
  clock_.advance(59);
  EXPECT_TRUE(engine_->authenticate(made.secret).has_value());
  clock_.advance(1);
  EXPECT_EQ(engine_->authenticate(made.secret), std::nullopt);
}

TEST_F(Tokens, WrongOnesAreRefused) {
  engine_->create_token({"ci", {"read"}, 0, "r1"}, caller_);
  const auto make = [&](const std::string& name, const std::vector<std::string>& scopes) {
    return refusal_of([&] { engine_->create_token({name, scopes, 0, ""}, caller_); });
  };
  EXPECT_EQ(make("ci", {"read"}), "TOKEN_EXISTS");
  EXPECT_EQ(make("local", {"read"}), "INVALID_FIELD");
  EXPECT_EQ(make("CI", {"read"}), "INVALID_FIELD");
  EXPECT_EQ(make("x", {}), "INVALID_FIELD");
  EXPECT_EQ(make("x", {"root"}), "INVALID_FIELD");
  EXPECT_EQ(refusal_of([&] { engine_->revoke_token("x", "", caller_); }), "TOKEN_NOT_FOUND");
}

TEST_F(Tokens, S14_EveryMutationIsInTheAuditLogAlsoARefusedOne) {
  const std::string id = submit("a");
  engine_->pause({id, "", ""}, caller_);
  engine_->create_token({"ci", {"read"}, 0, ""}, caller_);
  engine_->revoke_token("ci", "", caller_);
  engine_->drain("h1", "repair", false, "", caller_);
  engine_->undrain("h1", "", caller_);
  EXPECT_EQ(refusal_of([&] { engine_->checkpoint(id, "", caller_); }), "WRONG_STATE");
  engine_->record_refusal({"eve", "peer"}, "CancelRun", id, ErrorCode::kPermissionDenied);
  engine_->cancel({id, "", false, kSecond, ""}, caller_);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"CreateRun", "OK"},
      {"PauseRun", "OK"},
      {"CreateToken", "OK"},
      {"RevokeToken", "OK"},
      {"DrainHost", "OK"},
      {"UndrainHost", "OK"},
      {"CheckpointRun", "FAILED_PRECONDITION"},
      {"CancelRun", "PERMISSION_DENIED"},
      {"CancelRun", "OK"}};
  const std::vector<AuditEvent> log = engine_->audit_events(0, 100);
  ASSERT_EQ(log.size(), expected.size());
  for (std::size_t i = 0; i < log.size(); ++i) {
    EXPECT_EQ(log[i].method, expected[i].first);
    EXPECT_EQ(log[i].result, expected[i].second);
    EXPECT_EQ(log[i].sequence, static_cast<std::int64_t>(i) + 1);
  }
  EXPECT_EQ(log[1].actor, "local");
  EXPECT_EQ(log[1].peer, "unix");
  EXPECT_NE(log[1].before_json.find("QUEUED"), std::string::npos);
  EXPECT_NE(log[1].after_json.find("WAITING"), std::string::npos);
  EXPECT_EQ(log[7].actor, "eve");
  EXPECT_TRUE(engine_->check_store().ok);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
