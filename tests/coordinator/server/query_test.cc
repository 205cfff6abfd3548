// What the server reads from requests without gRPC: filters, orders, page tokens, YAML, lines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "coordinator/model/secrets.h"
#include "coordinator/server/filter_expression.h"
#include "coordinator/server/line_file.h"
#include "coordinator/server/page_token.h"
#include "coordinator/server/rate_limiter.h"
#include "coordinator/server/run_query.h"
#include "coordinator/server/yaml_limits.h"
#include "core/error.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator {
namespace {

using ::testing::HasSubstr;

Run some_run() {
  Run run;
  run.id = "aaaaaaaaaaaaaaaaaaaaaaaaaa";
  run.owner = "alice";
  run.display_name = "gpt small";
  run.labels = {{"team", "vision"}, {"a.b", "x"}};
  run.priority = 5;
  run.state = RunState::kRunning;
  run.create_time_ns = parse_rfc3339("2026-11-21T10:00:00Z");
  return run;
}

std::string problem_of(const std::string& filter) {
  try {
    const RunFilter read(filter);
    return "";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.kind(), core::ErrorKind::kConfig);
    return error.what();
  }
}

TEST(RunFilter, ComparesFields) {
  const auto run = some_run();
  const std::pair<const char*, bool> cases[] = {
      {"", true},
      {"state = RUNNING", true},
      {"state != RUNNING", false},
      {"state=QUEUED OR state=RUNNING", true},
      {"owner:ali", true},
      {"display_name = \"gpt small\"", true},
      {"display_name = 'gpt large'", false},
      {"priority > 4 AND priority <= 5", true},
      {"priority < -3", false},
      {"label.team = vision", true},
      {"label.\"a.b\" = x", true},
      {"label.nothing = x", false},
      {"label.nothing != x", true},
      {"label.team:*", true},
      {"label.nothing:*", false},
      {"NOT (state=RUNNING priority=5)", false},
      {"-state=QUEUED", true},
      {"create_time > \"2026-11-21T09:59:59.5Z\"", true},
      {"create_time >= 2026-11-21T11:00:01+01:00", false},
      {"end_time < \"2030-01-01T00:00:00Z\"", false},  // it has not ended
      {"hold = false", true}};
  for (const auto& [filter, expected] : cases)
    EXPECT_EQ(RunFilter(filter).matches(run), expected) << filter;
}

TEST(RunFilter, OrBindsTighterThanAnd) {
  auto run = some_run();
  // state=QUEUED AND (priority=1 OR priority=5)
  EXPECT_FALSE(RunFilter("state=QUEUED AND priority=1 OR priority=5").matches(run));
  run.state = RunState::kQueued;
  EXPECT_TRUE(RunFilter("state=QUEUED AND priority=1 OR priority=5").matches(run));
}

TEST(RunFilter, SaysWhatIsWrongAndWhere) {
  EXPECT_THAT(problem_of("staet=RUNNING"), HasSubstr("column 1: unknown field 'staet'"));
  EXPECT_THAT(problem_of("state=RUNING"), HasSubstr("RUNING"));
  EXPECT_THAT(problem_of("owner=a AND"), HasSubstr("column 12: expected a field, found the end"));
  EXPECT_THAT(problem_of("(owner=a"), HasSubstr("expected ')'"));
  EXPECT_THAT(problem_of("owner=\"a"), HasSubstr("closing quote"));
  EXPECT_THAT(problem_of("priority=high"), HasSubstr("whole number"));
  EXPECT_THAT(problem_of("priority=99999999999999999999"), HasSubstr("whole number"));
  EXPECT_THAT(problem_of("create_time>yesterday"), HasSubstr("2026-11-21T01:02:03Z"));
  EXPECT_THAT(problem_of("state<RUNNING"), HasSubstr("= !="));
  EXPECT_THAT(problem_of("owner=a)"), HasSubstr("found ')'"));
}

TEST(S9_FilterLimits, BoundaryAndOneMore) {
  const std::string most = "owner=" + std::string(kMaxFilterBytes - 6, 'a');
  EXPECT_EQ(problem_of(most), "");
  EXPECT_THAT(problem_of(most + "a"), HasSubstr("at most 2048 bytes"));
  const auto nested = [](int levels) {
    return std::string(static_cast<std::size_t>(levels), '(') + "owner=a" +
           std::string(static_cast<std::size_t>(levels), ')');
  };
  EXPECT_EQ(problem_of(nested(kMaxFilterDepth)), "");
  EXPECT_THAT(problem_of(nested(kMaxFilterDepth + 1)), HasSubstr("levels"));
  std::string terms = "owner=a";
  for (int i = 1; i < kMaxFilterTerms; ++i)
    terms += " owner=a";
  EXPECT_EQ(problem_of(terms), "");
  EXPECT_THAT(problem_of(terms + " owner=a"), HasSubstr("comparisons"));
}

TEST(RunOrder, SortsAndGoesOnBehindAPlace) {
  auto early = some_run();
  auto late = some_run();
  late.id = "bbbbbbbbbbbbbbbbbbbbbbbbbb";
  late.create_time_ns += kSecond;
  const RunOrder newest_first;
  EXPECT_TRUE(newest_first.before(late, early));
  EXPECT_TRUE(newest_first.behind(early, newest_first.key_of(late), late.id));
  EXPECT_FALSE(newest_first.behind(late, newest_first.key_of(late), late.id));
  const RunOrder by_priority("priority");
  EXPECT_TRUE(by_priority.before(early, late));  // equal: by id
  EXPECT_TRUE(by_priority.behind(late, by_priority.key_of(early), early.id));
  for (const char* wrong : {"owner", "priority asc", "desc", "priority desc desc"})
    EXPECT_THROW(RunOrder{wrong}, core::Error) << wrong;
}

TEST(PageTokens, AreGoodForTheirScopeOnly) {
  const PageTokens tokens(random_bytes(32));
  const PageScope scope = {"state=RUNNING", "priority", "alice"};
  const std::string token = tokens.make({"12", "aaaaaaaaaaaaaaaaaaaaaaaaaa"}, scope);
  const auto place = tokens.read(token, scope);
  ASSERT_TRUE(place);
  EXPECT_EQ(place->key, "12");
  EXPECT_EQ(place->id, "aaaaaaaaaaaaaaaaaaaaaaaaaa");
  EXPECT_FALSE(tokens.read(token, {"state=QUEUED", "priority", "alice"}));
  EXPECT_FALSE(tokens.read(token, {"state=RUNNING", "state", "alice"}));
  EXPECT_FALSE(tokens.read(token, {"state=RUNNING", "priority", "mallory"}));
  EXPECT_FALSE(PageTokens(random_bytes(32)).read(token, scope));
  for (std::size_t i = 0; i < token.size(); ++i) {
    std::string altered = token;
    altered[i] = altered[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(tokens.read(altered, scope)) << i;
    EXPECT_FALSE(tokens.read(token.substr(0, i), scope)) << i;
  }
}

TEST(S15_ParsersSurviveRandomInput, FiltersOrdersPageTokensYamlTimes) {
  std::mt19937 random(20261121);
  const std::string alphabet =
      "()-=!<>:.\"'\\ ANDORNOTstateowner*0123456789\n\t&[]{}%@|\xc3\xa4\x00Z+T";
  const PageTokens tokens("key");
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 64, '\0');
    for (char& c : text)
      c = random() % 8 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
    try {
      RunFilter(text).matches(some_run());
    } catch (const core::Error&) {
    }
    try {
      RunOrder{text};
    } catch (const core::Error&) {
    }
    try {
      parse_rfc3339(text);
    } catch (const core::Error&) {
    }
    EXPECT_FALSE(tokens.read(text, {"", "", ""}));
    yaml_over_limit(text, 32);
  }
}

TEST(S12_RateLimiter, KindsAndCallersDoNotShareAllowances) {
  RateLimiter limiter({{{1, 2}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}});
  EXPECT_EQ(limiter.take("a", CallKind::kRead, 0), 0);
  EXPECT_EQ(limiter.take("a", CallKind::kRead, 0), 0);
  EXPECT_EQ(limiter.take("a", CallKind::kRead, 0), kSecond);
  EXPECT_EQ(limiter.take("a", CallKind::kInteractive, 0), 0);
  EXPECT_EQ(limiter.take("b", CallKind::kRead, 0), 0);
  EXPECT_EQ(limiter.take("a", CallKind::kRead, kSecond / 2), kSecond / 2);
  EXPECT_EQ(limiter.take("a", CallKind::kRead, kSecond), 0);
}

TEST(S9_YamlLimits, DepthAnchorsAndAliases) {
  const auto nested = [](int levels) {
    return std::string(static_cast<std::size_t>(levels), '[') +
           std::string(static_cast<std::size_t>(levels), ']');
  };
  EXPECT_FALSE(yaml_over_limit(nested(32), 32));
  EXPECT_TRUE(yaml_over_limit(nested(33), 32));
  EXPECT_TRUE(yaml_over_limit(nested(20'000), 32));
  EXPECT_THAT(yaml_over_limit("a: &x [1]\nb: *x\n", 32).value_or(""), HasSubstr("1:"));
  EXPECT_THAT(yaml_over_limit("a: 1\nb: *x\n", 32).value_or("nothing"),
              ::testing::AnyOf("nothing", HasSubstr("2:")));
  std::string laughs = "a0: &a0 lol\n";
  for (int i = 1; i < 10; ++i) {
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 9; ++j)
      laughs += "*a" + std::to_string(i - 1) + ",";
    laughs += "]\n";
  }
  EXPECT_TRUE(yaml_over_limit(laughs, 32));
}

bool any(std::string_view) {
  return true;
}

TEST(LineFile, ReadsWholeLinesAsTheyCome) {
  const ::lockstep::testing::TemporaryDirectory directory;
  LineFile file(directory.path(), "m", 0);
  EXPECT_TRUE(file.next(any).at_end);  // not there yet
  directory.write("m", "one\ntwo\nthr");
  EXPECT_EQ(file.next(any).lines, "one\ntwo\n");
  EXPECT_TRUE(file.next(any).at_end);
  std::ofstream(directory / "m", std::ios::app) << "ee\n";
  const LineFile::Part part = file.next(any);
  EXPECT_EQ(part.lines, "three\n");
  EXPECT_EQ(part.next_offset, 14);
}

TEST(LineFile, NoticesThatItWasCutBackEvenWhenItGrewAgain) {
  const ::lockstep::testing::TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 500; ++i)
    text += "line " + std::to_string(i) + "\n";
  directory.write("m", text);
  LineFile file(directory.path(), "m", 0);
  std::string seen;
  for (LineFile::Part part = file.next(any); !part.at_end; part = file.next(any))
    seen += part.lines;
  EXPECT_EQ(seen, text);
  const std::size_t cut = text.find("line 400\n");
  const std::string other = text.substr(0, cut) + std::string(8000, 'x') + "\nlast\n";
  std::ofstream(directory / "m", std::ios::binary) << other;
  LineFile::Part part = file.next(any);
  ASSERT_TRUE(part.cut_back);
  EXPECT_EQ(part.next_offset, static_cast<std::int64_t>(cut));
  seen.resize(static_cast<std::size_t>(part.next_offset));
  for (part = file.next(any); !part.at_end; part = file.next(any))
    seen += part.lines;
  EXPECT_EQ(seen, other);
}

TEST(LineFile, FindsTheLastLinesThatAreWanted) {
  const ::lockstep::testing::TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 20'000; ++i)
    text += (i % 10 == 0 ? "validation " : "step ") + std::to_string(i) + "\n";
  directory.write("m", text + "torn");
  const auto wanted = [](std::string_view line) { return line.starts_with("validation"); };
  LineFile file(directory.path(), "m", 0);
  file.go_to_tail(3, wanted);
  std::string seen;
  for (LineFile::Part part = file.next(wanted); !part.at_end; part = file.next(wanted))
    seen += part.lines;
  EXPECT_EQ(seen, "validation 19970\nvalidation 19980\nvalidation 19990\n");
}

TEST(LineFile, FollowsNoLink) {
  const ::lockstep::testing::TemporaryDirectory directory;
  directory.write("secret", "secret\n");
  std::filesystem::create_symlink(directory / "secret", directory / "m");
  LineFile file(directory.path(), "m", 0);
  EXPECT_TRUE(file.next(any).at_end);
}

TEST(Keys, AreMadeOnceAndMustBePrivate) {
  const ::lockstep::testing::TemporaryDirectory directory;
  const std::string key = load_or_make_key(directory / "k");
  EXPECT_EQ(key.size(), 32u);
  EXPECT_EQ(load_or_make_key(directory / "k"), key);
  std::filesystem::permissions(directory / "k", std::filesystem::perms(0644));
  EXPECT_THROW(load_or_make_key(directory / "k"), core::Error);
}

}  // namespace
}  // namespace lockstep::coordinator
