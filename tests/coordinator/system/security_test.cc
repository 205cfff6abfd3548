// What holds for a coordinator as it is deployed: damage to its store (F15, S14), and ranks that
// reach it over TLS (S5).
#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "coordinator/store/database.h"
#include "tests/coordinator/system/job_control_test.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class DamagedStore : public JobControlTest {
 protected:
  // Behind the coordinator's back, while it is away.
  void execute(const std::string& sql) const {
    using coordinator::Database;
    Database database(path("state") / "store.db", Database::Mode::kWrite);
    database.execute(sql);
  }
};

TEST_F(DamagedStore, S14_AnEditedByteOfTheAuditLogIsFoundByAdminCheck) {
  start();
  const std::string run = submit("run", {"--hold"});
  EXPECT_EQ(job({"cancel", run, "--reason", "enough"}).exit_code, 0);
  EXPECT_THAT(job({"admin", "audit"}).out, HasSubstr("CancelRun"));
  EXPECT_EQ(job({"admin", "check"}).exit_code, 0);
  kill_coordinator();
  execute("UPDATE audit SET actor = 'lokal' WHERE method = 'CancelRun'");
  start();
  const CommandResult check = job({"admin", "check"});
  EXPECT_EQ(check.exit_code, 7) << check.out;
  EXPECT_THAT(check.out, HasSubstr("audit log: entry 2 does not have its hash"));
  kill_coordinator();
  execute("UPDATE audit SET actor = 'local' WHERE method = 'CancelRun'");
}

TEST_F(DamagedStore, F15_ADamagedRunIsSetAsideAndTheOthersStart) {
  start();
  const std::string broken = submit("broken", {"--hold"});
  const std::string whole = submit("whole", {"--hold"});
  kill_coordinator();
  execute("UPDATE runs SET record = replace(record, 'WAITING', 'RUNNING') WHERE id = '" + broken +
          "'");
  damaged(broken);
  start();
  const std::string listed = job({"runs", "list"}).out;
  EXPECT_THAT(listed, HasSubstr(whole));
  EXPECT_THAT(listed, Not(HasSubstr(broken)));
  const CommandResult refused = job({"wait", broken});
  EXPECT_EQ(refused.exit_code, 7);
  EXPECT_THAT(refused.err, HasSubstr("is corrupt"));
  EXPECT_EQ(job({"resume", whole}).exit_code, 0);
  EXPECT_EQ(job({"wait", whole}).exit_code, 0);
  const CommandResult check = job({"admin", "check"});
  EXPECT_EQ(check.exit_code, 7);
  EXPECT_THAT(check.out, HasSubstr("run " + broken + ": its row does not have its hash"));
  kill_coordinator();
  execute("UPDATE runs SET record = replace(record, 'RUNNING', 'WAITING') WHERE id = '" + broken +
          "'");
  start();
  EXPECT_EQ(state(broken), "WAITING") << "nothing of it was lost";
}

// What the supervisor wrote is cut and overwritten while nobody looks: that run alone has to do
// with it, and it still ends.
TEST_F(DamagedStore, F15_ADamagedSpoolHarmsItsOwnRunOnly) {
  start();
  const std::string slow = "fault=[{kind: slow, step: 6}, {kind: slow, step: 7}]";
  const std::string broken = submit("broken", {"--set", slow});
  const std::string whole = submit("whole", {"--set", slow});
  ASSERT_EQ(job({"wait", broken, "--for", "step=2"}).exit_code, 0);
  ASSERT_EQ(job({"wait", whole, "--for", "step=2"}).exit_code, 0);
  kill_coordinator();
  const std::string below = "state/runs/" + broken + "/attempts/1/";
  directory_.write(below + "spool.jsonl", "{\"event\":\"laun");
  directory_.write(below + "state.json", std::string("\0\xff{", 3));
  directory_.write(below + "supervisor.json", "");
  start();
  EXPECT_EQ(job({"wait", whole}).exit_code, 0);
  EXPECT_EQ(job({"wait", broken}).exit_code, 0);
  EXPECT_EQ(show(whole)["restartCount"], 0);
}

// Rank 0's agent is a client as any other where the coordinator listens on TLS alone.
class S5_AgentsOverTls : public JobControlTest {
 protected:
  void SetUp() override {
    JobControlTest::SetUp();
    openssl({"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2", "-addext",
             "basicConstraints=critical,CA:TRUE"});
    certificate("server", "subjectAltName=DNS:localhost,IP:127.0.0.1");
    certificate("rank", "subjectAltName=DNS:rank");
    for (const auto& [name, file] :
         {std::pair("LOCKSTEP_CA", "ca.pem"), std::pair("LOCKSTEP_CERTIFICATE", "rank.pem"),
          std::pair("LOCKSTEP_KEY", "rank.key")})
      setenv(name, path(file).c_str(), 1);
  }
  void TearDown() override {
    JobControlTest::TearDown();
    for (const char* name : {"LOCKSTEP_CA", "LOCKSTEP_CERTIFICATE", "LOCKSTEP_KEY"})
      unsetenv(name);
  }

  void openssl(Arguments arguments) const {
    arguments.insert(arguments.begin(), "openssl");
    const CommandResult result = run_command(arguments, command_options({}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }
  void certificate(const std::string& name, const std::string& extension) const {
    directory_.write(name + ".ext", extension + "\n");
    openssl({"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name});
    openssl({"x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key",
             "-CAcreateserial", "-out", name + ".pem", "-days", "1", "-extfile", name + ".ext"});
  }

  // A port of the loopback that nobody has just now.
  static int free_port() {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(socket, generic, size), 0);
    EXPECT_EQ(::getsockname(socket, generic, &size), 0);
    ::close(socket);
    return ntohs(address.sin_port);
  }

  // The coordinator's file, with this beside what it has. Ranks are to come in by TLS.
  void listen_on_tls(const std::string& more) const {
    std::string file = text("coordinator.yaml");
    const std::string unix_alone = fmt::format("listen: unix:{}\n", path("socket").string());
    file.replace(file.find(unix_alone), unix_alone.size(),
                 fmt::format("listen: ['unix:{}', 'localhost:{}']\n"
                             "agents: {{address: 'localhost:{}'}}\n"
                             "tls: {{certificate: {}, key: {}{}}}\n",
                             path("socket").string(), port_, port_, path("server.pem").string(),
                             path("server.key").string(), more));
    directory_.write("coordinator.yaml", file);
  }

  void expect_a_run_is_heard_of() {
    start();
    ASSERT_EQ(job({"admin", "token", "create", "someone", "--scope", "read"}).exit_code, 0);
    const std::string slow = "{kind: slow, step: 6}, {kind: slow, step: 7}, {kind: slow, step: 8}";
    const std::string run = submit("run", {"--set", "fault=[" + slow + "]"});
    // RUNNING, and a step that is known: rank 0 has registered, and is heard of.
    EXPECT_EQ(job({"wait", run, "--for", "step=2"}).exit_code, 0);
    EXPECT_EQ(environment_of(rank_of(run, 0), "LOCKSTEP_COORDINATOR"),
              fmt::format("localhost:{}", port_));
    EXPECT_EQ(job({"checkpoint", run, "--wait"}).exit_code, 0) << "control reaches it";
    EXPECT_EQ(job({"wait", run}).exit_code, 0);
    EXPECT_EQ(show(run)["progress"]["step"], "60");
  }

  int port_ = free_port();
};

TEST_F(S5_AgentsOverTls, AreHeardOf) {
  listen_on_tls("");
  expect_a_run_is_heard_of();
}

TEST_F(S5_AgentsOverTls, AreHeardOfWithACertificateOfTheirOwn) {
  listen_on_tls(", client_ca: " + path("ca.pem").string());
  expect_a_run_is_heard_of();
}

}  // namespace
}  // namespace lockstep::testing
