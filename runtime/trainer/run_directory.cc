#include "runtime/trainer/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "runtime/config/dump_config.h"
#include "runtime/files/write_file.h"
#include "runtime/ranks/agree.h"

namespace lockstep::runtime {

namespace {

constexpr auto kLockPatience = std::chrono::seconds(30);
constexpr auto kLockPoll = std::chrono::milliseconds(50);

[[noreturn]] void fail(const std::string& message) {
  throw core::Error(core::ErrorKind::kConfig, message);
}

// What the system refused: a full disk is exit 3, what else is wrong with run.output exit 2.
[[noreturn]] void fail(const std::string& what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw core::Error(full ? core::ErrorKind::kData : core::ErrorKind::kConfig,
                    fmt::format("run.output: cannot {}: {}{}", what, std::strerror(error),
                                full ? "; free some space, or choose another run.output" : ""));
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void make_directories(const std::string& output) {
  for (const char* sub : {"", "/checkpoints", "/logs", "/exit", "/flight"}) {
    std::error_code failure;
    std::filesystem::create_directories(output + sub, failure);
    if (failure) {
      fail(fmt::format("create {}{}", output, sub), failure.value());
    }
  }
}

// The attempt that a lock file names; 0 when it names none.
std::int64_t attempt_in(const std::string& lock_text) {
  const std::string key = "\"attempt\":";
  const std::size_t at = lock_text.find(key);
  return at == std::string::npos ? 0 : std::atoll(lock_text.c_str() + at + key.size());
}

// Which process holds a lock, in words.
std::string holder_in(const std::string& lock_text) {
  const auto lock = nlohmann::json::parse(lock_text, nullptr, false);
  if (!lock.is_object() || !lock.contains("host") || !lock.contains("pid"))
    return "another process";
  return fmt::format("attempt {}, process {} on host {}", lock.value("attempt", 0),
                     lock["pid"].dump(), lock["host"].get<std::string>());
}

// Whether rank 0's exit record of the attempt before says that the numerics ended it.
bool ended_diverged(const std::string& output) {
  const auto record =
      nlohmann::json::parse(read_text(output + "/exit/rank-0000.json"), nullptr, false);
  return record.is_object() && record.contains("exit_code") &&
         record["exit_code"] == static_cast<int>(core::ErrorKind::kDiverged);
}

// What earlier attempts left of their ends would be taken for this one's.
void remove_records_of_ends(const std::string& output) {
  std::error_code ignored;
  for (const char* sub : {"/exit", "/flight"}) {
    for (const auto& entry : std::filesystem::directory_iterator(output + sub, ignored)) {
      std::filesystem::remove(entry.path(), ignored);
    }
  }
}

bool holds_run(const std::string& output) {
  std::error_code ignored;
  return std::filesystem::file_size(output + "/metrics.jsonl", ignored) > 0 && !ignored;
}

void refuse_existing_run(const std::string& output) {
  if (!holds_run(output)) return;
  fail(fmt::format(
      "run.output {} already holds a run; continue it with --resume auto, continue from one of its "
      "checkpoints with --resume {}/checkpoints/step-..., or choose another directory "
      "(--set run.output=...)",
      output, output));
}

int open_lock(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) fail("open " + path, errno);
  return file;
}

}  // namespace

RunDirectory::RunDirectory(const Config& config, const ResumeChoice& resume,
                           comm::Communicator& communicator, core::Logger& log,
                           const std::atomic<int>* stop)
    : output_(config.run.output), writes_(communicator.rank() == 0) {
  std::string token(16, ' ');
  agree(communicator, "run directory", [&] {
    if (!writes_) return;
    make_directories(output_);
    lock_exclusively(log, stop);
    if (resume.mode == ResumeMode::kNever) refuse_existing_run(output_);
    follows_divergence_ = ended_diverged(output_);
    remove_records_of_ends(output_);
    attempt_ = attempt_in(read_text(output_ + "/lock")) + 1;
    token =
        fmt::format("{:016x}", std::random_device{}() * 0x100000001ULL + std::random_device{}());
    const std::string text = fmt::format("{{\"version\":1,\"attempt\":{},{},\"token\":\"{}\"}}\n",
                                         attempt_, identity(), token);
    errno = ENOSPC;  // what a write that is cut short means
    if (ftruncate(lock_, 0) != 0 ||
        pwrite(lock_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      fail(fmt::format("write {}/lock", output_), errno);
    }
    flock(lock_, LOCK_SH);
  });
  token = communicator.all_gather_bytes(token, "lock token").front();
  attempt_ = communicator.all_gather_small(attempt_, "attempt").front();
  agree(communicator, "run directory", [&] {
    share_lock(token);
    log.open_file(fmt::format("{}/logs/rank-{:04}.log", output_, communicator.rank()));
  });
}

RunDirectory::~RunDirectory() {
  if (lock_ >= 0) close(lock_);
}

std::string RunDirectory::identity() const {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  return fmt::format("\"host\":\"{}\",\"pid\":{}", host, getpid());
}

void RunDirectory::lock_exclusively(core::Logger& log, const std::atomic<int>* stop) {
  lock_ = open_lock(output_ + "/lock");
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  bool told = false;
  while (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    const std::string holder = holder_in(read_text(output_ + "/lock"));
    if (std::chrono::steady_clock::now() > deadline) {
      fail(
          fmt::format("{} is in use by another attempt after {} s: {}; stop it, or choose another "
                      "run.output",
                      output_, kLockPatience.count(), holder));
    }
    if (stop != nullptr && stop->load() != 0) {
      throw core::Error(core::ErrorKind::kStopped,
                        fmt::format("stopped on request while waiting for an earlier attempt to "
                                    "leave {}; nothing was trained",
                                    output_));
    }
    if (!told)
      log.warning("run", "waiting for an earlier attempt to leave {}: {}", output_, holder);
    told = true;
    std::this_thread::sleep_for(kLockPoll);
  }
}

void RunDirectory::share_lock(const std::string& token) {
  if (writes_) return;
  const std::string path = output_ + "/lock";
  const std::string text = read_text(path);
  if (text.find(token) == std::string::npos) {
    fail(
        fmt::format("run.output {} is not shared with the host of rank 0: expected the token {} in "
                    "{}, found '{}'; use a directory that all hosts see",
                    output_, token, path, text));
  }
  lock_ = open_lock(path);
  flock(lock_, LOCK_SH);
}

void RunDirectory::write_config(const Config& config) const {
  if (writes_) replace_file(output_ + "/config.yaml", to_yaml(config));
}

}  // namespace lockstep::runtime
