// S5: TLS with certificates of a CA that openssl makes here.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "core/error.h"
#include "tests/coordinator/server/raw_call.h"
#include "tests/coordinator/server/test_server.h"
#include "tests/support/run_command.h"

namespace lockstep::coordinator::testing {
namespace {

using grpc::StatusCode;
using ::lockstep::testing::CommandOptions;
using ::lockstep::testing::read_file;
using ::lockstep::testing::run_command;

// Two authorities, and certificates of the first one or of nobody.
class Certificates {
 public:
  Certificates() {
    make_authority("ca");
    make_authority("strangers");
    make("server", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1", 1);
    make("renewed", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1", 1);
    make("client", "ca", "subjectAltName=DNS:alice", 1);
    make("expired", "ca", "subjectAltName=DNS:alice", -1);
    make("stranger", "strangers", "subjectAltName=DNS:alice", 1);
    openssl({"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", "self.key", "-out", "self.pem", "-subj", "/CN=alice", "-days", "1"});
  }

  std::filesystem::path operator/(const std::string& name) const { return directory_ / name; }
  std::string text(const std::string& name) const { return read_file(directory_ / name); }

  void openssl(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), "openssl");
    CommandOptions options;
    options.directory = directory_.path();
    const auto result = run_command(arguments, options);
    ASSERT_EQ(result.exit_code, 0) << arguments[1] << ": " << result.err;
  }

 private:
  void make_authority(const std::string& name) const {
    openssl({"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", name + ".key", "-out", name + ".pem", "-subj", "/CN=" + name, "-days", "2",
             "-addext", "basicConstraints=critical,CA:TRUE", "-addext",
             "keyUsage=critical,keyCertSign,cRLSign"});
  }
  void make(const std::string& name, const std::string& ca, const std::string& extension,
            int days) const {
    directory_.write(name + ".ext", extension + "\n");
    openssl({"req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
             name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name});
    openssl({"x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key",
             "-CAcreateserial", "-out", name + ".pem", "-days", std::to_string(days), "-extfile",
             name + ".ext"});
  }

  ::lockstep::testing::TemporaryDirectory directory_;
};

class S5_MutualTls : public ::testing::Test {
 protected:
  S5_MutualTls()
      : server_([this](CoordinatorConfig& config, EngineOptions&) {
          std::filesystem::copy_file(certificates_ / "server.pem", certificates_ / "live.pem");
          std::filesystem::copy_file(certificates_ / "server.key", certificates_ / "live.key");
          config.listen.push_back(parse_listen_address("127.0.0.1:0"));
          config.tls = {certificates_ / "live.pem", certificates_ / "live.key",
                        certificates_ / "ca.pem"};
        }),
        secret_(server_.secret_of("alice", {"read"})) {}

  std::string address() const { return server_.server->addresses().back().text(); }

  // identity: of the client's certificate and key; empty: none. as: whom the client wants to reach.
  grpc::Status call(const std::string& identity, const std::string& secret,
                    const std::string& as = "localhost") const {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = certificates_.text("ca.pem");
    if (!identity.empty()) {
      options.pem_cert_chain = certificates_.text(identity + ".pem");
      options.pem_private_key = certificates_.text(identity + ".key");
    }
    grpc::ChannelArguments arguments;
    arguments.SetSslTargetNameOverride(as);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel =
        grpc::CreateCustomChannel(address(), grpc::SslCredentials(options), arguments);
    return raw_call(channel, "/lockstep.v1.RunService/ListRuns", "", secret).status;
  }

  Certificates certificates_;
  TestServer server_;
  std::string secret_;
};

TEST_F(S5_MutualTls, LetsInWhoHasACertificateAndAToken) {
  EXPECT_TRUE(call("client", secret_).ok()) << call("client", secret_).error_message();
  EXPECT_EQ(call("client", "").error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_NE(server_.log_text().find("certificate:alice"), std::string::npos);
}

TEST_F(S5_MutualTls, KeepsOutWhoHasNone) {
  for (const char* identity : {"", "expired", "stranger", "self"})
    EXPECT_EQ(call(identity, secret_).error_code(), StatusCode::UNAVAILABLE) << identity;
  const auto plain = server_.channel(address());
  EXPECT_EQ(raw_call(plain, "/lockstep.v1.RunService/ListRuns", "", secret_).status.error_code(),
            StatusCode::UNAVAILABLE);
}

TEST_F(S5_MutualTls, ClientsSeeANameThatIsNotInTheCertificate) {
  EXPECT_EQ(call("client", secret_, "elsewhere.example").error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(S5_MutualTls, SpeaksNoVersionBefore12) {
  const auto handshake = [this](const std::string& version) {
    CommandOptions options;
    return run_command({"openssl", "s_client", "-connect", address(), version, "-cipher",
                        "DEFAULT@SECLEVEL=0", "-alpn", "h2", "-cert",
                        (certificates_ / "client.pem").string(), "-key",
                        (certificates_ / "client.key").string()},
                       options)
               .exit_code == 0;
  };
  EXPECT_TRUE(handshake("-tls1_2"));
  EXPECT_FALSE(handshake("-tls1_1"));
}

TEST_F(S5_MutualTls, TakesANewCertificateWithoutARestart) {
  const auto serial = [this] {
    CommandOptions options;
    const auto result = run_command(
        {"openssl", "s_client", "-connect", address(), "-alpn", "h2", "-cert",
         (certificates_ / "client.pem").string(), "-key", (certificates_ / "client.key").string()},
        options);
    const std::size_t begin = result.out.find("subject=");
    return result.out.substr(begin, result.out.find('\n', begin) - begin);
  };
  EXPECT_NE(serial().find("server"), std::string::npos) << serial();
  std::filesystem::rename(certificates_ / "renewed.key", certificates_ / "live.key");
  std::filesystem::rename(certificates_ / "renewed.pem", certificates_ / "live.pem");
  std::string now;
  for (int i = 0; i < 60 && now.find("renewed") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    now = serial();
  }
  EXPECT_NE(now.find("renewed"), std::string::npos) << now;
  EXPECT_TRUE(call("client", secret_).ok());
}

TEST(S5_TlsFiles, WrongOnesAreRefusedAtTheStart) {
  const Certificates certificates;
  const auto start = [&certificates](const std::string& certificate, const std::string& key) {
    const TestServer server([&](CoordinatorConfig& config, EngineOptions&) {
      config.listen.push_back(parse_listen_address("127.0.0.1:0"));
      config.tls = {certificates / certificate, certificates / key, {}};
    });
  };
  EXPECT_NO_THROW(start("server.pem", "server.key"));
  EXPECT_THROW(start("server.pem", "client.key"), core::Error);
  EXPECT_THROW(start("missing.pem", "server.key"), core::Error);
  EXPECT_THROW(start("server.key", "server.key"), core::Error);
}

}  // namespace
}  // namespace lockstep::coordinator::testing
