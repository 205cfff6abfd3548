#include "coordinator/client/text.h"

#include <gtest/gtest.h>

#include <sstream>

#include "coordinator/client/endpoint.h"
#include "coordinator/client/log_printer.h"
#include "core/error.h"
#include "lockstep/v1/run.pb.h"
#include "tests/support/temporary_directory.h"

namespace lockstep::coordinator {
namespace {

TEST(S13_ControlBytesAreEscapedOnATerminal, OfEveryKind) {
  const std::string escape = "\x1b";
  EXPECT_EQ(escape_for_terminal(escape + "[2J" + escape + "]0;title\x07"),
            "\\x1b[2J\\x1b]0;title\\x07");
  EXPECT_EQ(escape_for_terminal(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(escape_for_terminal("step 1\rstep 2\b"), "step 1\\x0dstep 2\\x08");
  EXPECT_EQ(escape_for_terminal("\x7f"), "\\x7f");
  // C1 controls, as UTF-8 and as bytes: 0x9b begins a sequence as ESC [ does.
  EXPECT_EQ(escape_for_terminal("\xc2\x9b"
                                "2J"),
            "\\u{009b}2J");
  EXPECT_EQ(escape_for_terminal("\x9b"
                                "2J"),
            "\\x9b2J");
  // Overlong forms of ESC, a lone surrogate, a cut character.
  EXPECT_EQ(escape_for_terminal("\xc0\x9b"), "\\xc0\\x9b");
  EXPECT_EQ(escape_for_terminal("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(escape_for_terminal("\xe2\x82"), "\\xe2\\x82");
  EXPECT_EQ(escape_for_terminal("\xe2\x80\xae"
                                "gnp.exe"),
            "\\u{202e}gnp.exe");
}

TEST(S13_ControlBytesAreEscapedOnATerminal, AndNothingElse) {
  const std::string plain = "step 12\tloss 3.2, \xc3\xa9\xe2\x82\xac\xf0\x9f\x9a\x80\n";
  EXPECT_EQ(escape_for_terminal(plain), plain);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string shown = escape_for_terminal(std::string(1, static_cast<char>(byte)));
    for (const char c : shown) {
      EXPECT_TRUE(c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7f)) << byte;
    }
  }
}

TEST(S13_ControlBytesAreEscapedOnATerminal, InTables) {
  Table table({"NAME"});
  table.add({"evil\x1b[31m\nSECOND ROW"});
  std::ostringstream out;
  table.print(out, std::nullopt);
  EXPECT_EQ(out.str(), "NAME\nevil\\x1b[31m SECOND ROW\n");
}

TEST(Text, ReadsDurations) {
  const auto ns = [](const std::string& text) {
    const auto duration = parse_duration(text);
    return duration.seconds() * 1'000'000'000 + duration.nanos();
  };
  EXPECT_EQ(ns("90s"), 90'000'000'000);
  EXPECT_EQ(ns("90"), 90'000'000'000);
  EXPECT_EQ(ns("1.5s"), 1'500'000'000);
  EXPECT_EQ(ns("250ms"), 250'000'000);
  EXPECT_EQ(ns("1h30m"), 5'400'000'000'000);
  EXPECT_EQ(ns("2d"), 172'800'000'000'000);
  for (const char* wrong : {"", "s", "-1s", "5x", "1h30", "3 0", "1e3s", "nan", "1:30"}) {
    EXPECT_THROW(parse_duration(wrong), core::Error) << wrong;
  }
}

TEST(Text, ReadsMoments) {
  constexpr std::int64_t kNow = 1'800'000'000'000'000'000;
  EXPECT_EQ(to_ns(parse_moment("10m", kNow)), kNow - 600'000'000'000);
  EXPECT_EQ(to_ns(parse_moment("1970-01-02T00:00:00Z", kNow)), 86'400'000'000'000);
  EXPECT_THROW(parse_moment("yesterday", kNow), core::Error);
}

TEST(Text, WritesTimes) {
  constexpr std::int64_t kSecondNs = 1'000'000'000;
  EXPECT_EQ(format_duration(12 * kSecondNs), "12s");
  EXPECT_EQ(format_duration(200 * kSecondNs), "3m20s");
  EXPECT_EQ(format_duration(7500 * kSecondNs), "2h05m");
  EXPECT_EQ(format_duration(90000 * kSecondNs), "1d01h");
  EXPECT_EQ(format_duration(-5), "0s");
  google::protobuf::Timestamp time;
  EXPECT_EQ(format_time(time), "-");
  time.set_seconds(86400);
  time.set_nanos(5);
  EXPECT_EQ(format_time(time), "1970-01-02T00:00:00Z");
}

// The keys that scripts rely on.
TEST(Text, JsonIsProtoJsonWithEveryKey) {
  v1::Run run;
  run.set_name("runs/x");
  run.set_state(v1::Run::FAILED);
  const std::string json = to_json(run);
  for (const char* part :
       {R"("name":"runs/x")", R"("state":"FAILED")", R"("displayName":"")", R"("restartCount":0)",
        R"("latestCheckpoint":"")", R"("stopIntent":"STOP_INTENT_NONE")", R"("labels":{})"}) {
    EXPECT_NE(json.find(part), std::string::npos) << part << " in " << json;
  }
  EXPECT_EQ(json.find('\n'), std::string::npos);
}

TEST(Text, TablesAreCutOnATerminalOnly) {
  Table table({"A", "B"});
  table.add({"\xc3\xa9", "xxxxxxxx"});
  std::ostringstream wide;
  std::ostringstream narrow;
  table.print(wide, std::nullopt);
  table.print(narrow, 5);
  EXPECT_EQ(wide.str(), "A  B\n\xc3\xa9  xxxxxxxx\n");
  EXPECT_EQ(narrow.str(), "A  B\n\xc3\xa9  xx\n");
}

v1::LogChunk chunk(int rank, const std::string& data) {
  v1::LogChunk made;
  made.set_attempt(1);
  made.set_rank(rank);
  made.set_data(data);
  return made;
}

TEST(LogPrinter, NeverMixesLinesOfRanks) {
  std::ostringstream out;
  std::ostringstream talk;
  LogPrinter printer(out, talk, {true, false});
  printer.show(chunk(0, "one\ntw"));
  printer.show(chunk(1, "other\n"));
  printer.show(chunk(0, "o\nlast"));
  printer.show(chunk(-1, "mpirun says\n"));
  printer.finish();
  EXPECT_EQ(out.str(),
            "[rank 0] one\n[rank 1] other\n[rank 0] two\n[mpirun] mpirun says\n[rank 0] last\n");
  EXPECT_EQ(talk.str(), "");
}

TEST(LogPrinter, SaysWhatWasNotKeptAndWhenAnAttemptBegins) {
  std::ostringstream out;
  std::ostringstream talk;
  LogPrinter printer(out, talk, {false, true});
  printer.show(chunk(0, "a\x1b[0m\n"));
  v1::LogChunk next = chunk(0, "b\n");
  next.set_attempt(2);
  next.set_dropped_bytes(77);
  printer.show(next);
  EXPECT_EQ(out.str(), "a\\x1b[0m\nb\n");
  EXPECT_NE(talk.str().find("attempt 2"), std::string::npos);
  EXPECT_NE(talk.str().find("77 bytes"), std::string::npos);
}

TEST(Endpoint, TakesOptionsThenEnvironmentThenTheDefaultSocket) {
  const lockstep::testing::TemporaryDirectory directory;
  for (const char* name : {"LOCKSTEP_ADDRESS", "LOCKSTEP_TOKEN", "LOCKSTEP_TOKEN_FILE"})
    unsetenv(name);
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  EXPECT_EQ(resolve_endpoint({}).address, "unix:/run/user/7/lockstep/coordinator.sock");
  EXPECT_FALSE(resolve_endpoint({}).tls);
  setenv("LOCKSTEP_ADDRESS", "127.0.0.1:7070", 1);
  const auto token = directory.write("token", "secret\n");
  setenv("LOCKSTEP_TOKEN_FILE", token.c_str(), 1);
  for (const unsigned mode : {0644U, 0604U, 0620U, 0601U}) {
    std::filesystem::permissions(token, std::filesystem::perms(mode));
    EXPECT_THROW(resolve_endpoint({}), core::Error) << "others can read or change it: " << mode;
  }
  std::filesystem::permissions(token, std::filesystem::perms(0600));
  EXPECT_EQ(resolve_endpoint({}).address, "127.0.0.1:7070");
  EXPECT_EQ(resolve_endpoint({}).token, "secret");
  EXPECT_FALSE(resolve_endpoint({}).tls);
  EndpointOptions options;
  options.address = "head.example.org:7070";
  EXPECT_TRUE(resolve_endpoint(options).tls) << "a token would travel in the clear";
  options.address = "nonsense";
  EXPECT_THROW(resolve_endpoint(options), core::Error);
  unsetenv("LOCKSTEP_ADDRESS");
  unsetenv("LOCKSTEP_TOKEN_FILE");
}

}  // namespace
}  // namespace lockstep::coordinator
