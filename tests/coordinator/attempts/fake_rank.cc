// A stand-in for `lockstep` in tests of attempts: `supervise` and `rank-start` are the real ones,
// `train CONFIG --resume R` is a rank that does what CONFIG, a JSON file, tells it:
//
//   {"output": DIR, "default": BEHAVIOUR, "ranks": {"1": BEHAVIOUR}}
//
// BEHAVIOUR (all optional): step_ms, steps (then it ends with 0), exit_after_ms with exit_code,
// record (writes an exit record; default true), reason, message, signal_after_ms with signal (to
// itself), ignore_term, ignore_stop (SIGUSR1), grandchild ("session": in a session of its own),
// bytes (writes so many at once), lines (numbered ones, as fast as it can), dump (a file that gets
// its arguments and environment), say (a line to standard error).
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "coordinator/attempts/rank_start.h"
#include "coordinator/attempts/supervisor.h"

namespace {

using nlohmann::json;
using namespace lockstep::coordinator;

volatile sig_atomic_t stop_asked = 0;

void take_note(int) {
  stop_asked = 1;
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

struct Rank {
  int number = 0;
  std::string output;
  json behaviour;
  int step = 0;

  int get(const char* name, int otherwise) const { return behaviour.value(name, otherwise); }

  [[noreturn]] void end(int code, const std::string& reason) const {
    if (behaviour.value("record", true)) {
      std::filesystem::create_directories(output + "/exit");
      const std::string path = fmt::format("{}/exit/rank-{:04}.json", output, number);
      const json record = {{"version", 1},
                           {"rank", number},
                           {"pid", getpid()},
                           {"exit_code", code},
                           {"reason", behaviour.value("reason", reason)},
                           {"message", code == 0 ? "" : behaviour.value("message", reason)},
                           {"step", step},
                           {"unix_time", unix_seconds()}};
      std::ofstream(path + ".tmp") << record.dump() << std::endl;
      std::filesystem::rename(path + ".tmp", path);
    }
    std::cout.flush();
    _exit(code);
  }
};

void listen(const Rank& rank) {
  struct sigaction note {};
  note.sa_handler = take_note;
  note.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &note, nullptr);
  sigaction(SIGTERM, &note, nullptr);
  if (rank.behaviour.value("ignore_stop", false)) signal(SIGUSR1, SIG_IGN);
  if (rank.behaviour.value("ignore_term", false)) signal(SIGTERM, SIG_IGN);
}

void start_grandchild(const std::string& kind) {
  if (kind.empty() || fork() != 0) return;
  if (kind == "session") setsid();
  if (fork() != 0) _exit(0);
  signal(SIGTERM, SIG_IGN);
  while (true)
    pause();
}

void dump(const std::string& file, int argc, char** argv) {
  if (file.empty()) return;
  json all = {{"arguments", json::array()}, {"environment", json::array()}};
  for (int i = 0; i < argc; ++i)
    all["arguments"].push_back(argv[i]);
  for (char** variable = environ; *variable != nullptr; ++variable)
    all["environment"].push_back(*variable);
  std::ofstream(file + ".tmp") << all.dump();
  std::filesystem::rename(file + ".tmp", file);
}

void write_much(const Rank& rank) {
  const auto bytes = rank.behaviour.value("bytes", std::int64_t{0});
  std::string block;
  while (block.size() < (64U << 10))
    block += fmt::format("rank {} writes and writes and writes\n", rank.number);
  for (std::int64_t done = 0; done < bytes;) {
    const ssize_t n = write(STDOUT_FILENO, block.data(), block.size());
    if (n <= 0) break;
    done += n;
  }
  for (int i = 0, lines = rank.get("lines", 0); i < lines; ++i) {
    std::cout << "line " << i << " of rank " << rank.number << '\n';
    if (i % 100 == 0) std::cout.flush();
  }
  std::cout.flush();
}

[[noreturn]] void train(const Rank& start) {
  Rank rank = start;
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&](const char* name) {
    const int after = rank.get(name, -1);
    return after >= 0 &&
           std::chrono::steady_clock::now() - begin >= std::chrono::milliseconds(after);
  };
  const int steps = rank.get("steps", 1 << 30);
  while (rank.step < steps) {
    if (passed("exit_after_ms")) rank.end(rank.get("exit_code", 1), "told to fail");
    if (passed("signal_after_ms")) kill(getpid(), rank.get("signal", SIGKILL));
    if (stop_asked != 0) rank.end(7, "stopped on request");
    std::this_thread::sleep_for(std::chrono::milliseconds(rank.get("step_ms", 20)));
    std::cout << "step " << ++rank.step << std::endl;
  }
  rank.end(0, "done");
}

int run_rank(int argc, char** argv) {
  const char* number = std::getenv("OMPI_COMM_WORLD_RANK");
  Rank rank;
  rank.number = number == nullptr ? 0 : std::atoi(number);
  const json config = json::parse(std::ifstream(argv[2]));
  rank.output = config.value("output", "/nowhere");
  rank.behaviour = config.value("default", json::object());
  const json own =
      config.value("ranks", json::object()).value(std::to_string(rank.number), json::object());
  rank.behaviour.update(own);
  listen(rank);
  const std::string file = rank.behaviour.value("dump", "");
  dump(file.empty() ? "" : file + std::to_string(rank.number), argc, argv);
  start_grandchild(rank.behaviour.value("grandchild", ""));
  if (const std::string say = rank.behaviour.value("say", ""); !say.empty())
    std::cerr << say << std::endl;
  write_much(rank);
  train(rank);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> words(argv, argv + argc);
  if (argc == 5 && words[1] == "supervise") {
    const Descriptor lock = take_supervisor_lock(words[4], std::stoi(words[3]));
    Supervisor(words[4], std::filesystem::read_symlink("/proc/self/exe").string()).run();
    return 0;
  }
  if (argc > 6 && words[1] == "rank-start") {
    RankStart start;
    std::size_t next = 2;
    for (; words[next] != "--"; next += 2) {
      if (words[next] == "--directory") start.directory = words[next + 1];
      if (words[next] == "--boot-id") start.boot_id = words[next + 1];
      if (words[next] == "--devices") start.devices = words[next + 1];
    }
    start.program.assign(words.begin() + static_cast<std::ptrdiff_t>(next) + 1, words.end());
    start_rank(start);
  }
  if (argc == 5 && words[1] == "train") return run_rank(argc, argv);
  std::cerr << "fake_rank: wrong arguments\n";
  return 2;
} catch (const std::exception& error) {
  std::cerr << "fake_rank: " << error.what() << std::endl;
  return 1;
}
