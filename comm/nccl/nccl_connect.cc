// How a group over NCCL is made and left.

#include <array>
#include <cstdlib>
#include <utility>

#include "comm/exchange/backoff.h"
#include "comm/nccl/nccl_communicator.h"
#include "core/check.h"

namespace lockstep::comm {

using core::ErrorKind;

namespace {

struct Setting {
  const char* name;
  const char* value;
};

// With trees, or sums in the switches, the order of a sum may differ from run to run.
constexpr std::array<Setting, 3> kRepeatable = {
    {{"NCCL_ALGO", "Ring"}, {"NCCL_PROTO", "Simple"}, {"NCCL_NVLS_ENABLE", "0"}}};

// NCCL reads its environment once in the life of a process.
std::string set_repeatable() {
  for (const Setting& setting : kRepeatable) {
    const char* present = std::getenv(setting.name);
    if (present != nullptr && std::string_view(present) != setting.value) {
      return fmt::format(
          "{}={} in the environment, but repeatable sums need {}={}; unset it, or do without "
          "repeatable sums",
          setting.name, present, setting.name, setting.value);
    }
  }
  for (const Setting& setting : kRepeatable)
    setenv(setting.name, setting.value, 1);
  return "";
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     core::DeviceRef device, const nccl::Api& api,
                                                     const NcclOptions& options) {
  return std::make_unique<NcclCommunicator>(std::move(host), device, api, options);
}

NcclCommunicator::NcclCommunicator(std::unique_ptr<Communicator> host, core::DeviceRef device,
                                   const nccl::Api& api, const NcclOptions& options)
    : DeviceCommunicator("nccl", std::move(host), device),
      api_(api),
      handle_(api),
      stream_(device),
      ready_(device),
      works_(device),
      events_(device) {
  connect(options);
  start_watch();
}

NcclCommunicator::~NcclCommunicator() {
  stop_watch();
  try {
    leave();
  } catch (const core::Error&) {
    // Told by the call that found it, or by a peer that still waits.
  }
  handle_.abort();  // nothing, after a leave that came to its end
}

// Errors of NCCL come to this rank alone, so the group fails with them.
void NcclCommunicator::fail(const std::string& text) {
  roll_call_of_host().fail_with(ErrorKind::kCommunication, text);
  handle_.abort();
  host().progress();
  throw core::Error(ErrorKind::kCommunication, text);
}

// Rank 0's id, on all ranks; or what kept a rank from going on, on all ranks.
nccl::UniqueId NcclCommunicator::agree_on_id() {
  nccl::UniqueId id{};
  std::string problem;
  if (rank() == 0) {
    const nccl::Result result = api_.get_unique_id(&id);
    if (result != nccl::kSuccess) problem = api_.get_error_string(result);
  }
  const auto problems = host().all_gather_bytes(problem, "nccl");
  if (!problems.front().empty()) {
    throw core::Error(ErrorKind::kCommunication,
                      fmt::format("{}: NCCL makes no unique id: {}; NCCL_DEBUG=INFO tells more",
                                  roll_call_of_host().describe_rank(0), problems.front()));
  }
  return host().all_gather_small(id, "nccl").front();
}

void NcclCommunicator::connect(const NcclOptions& options) {
  const std::string problem = options.repeatable ? set_repeatable() : "";
  const auto problems = host().all_gather_bytes(problem, "nccl");
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (problems[r].empty()) continue;
    throw core::Error(ErrorKind::kConfig, fmt::format("rank {}: {}", r, problems[r]));
  }
  const nccl::UniqueId id = agree_on_id();
  core::check_device(*device_ref().runtime, device_ref().runtime->use(device().index),
                     "opening the device for NCCL");
  nccl::Config config;
  if (options.max_ctas > 0) config.max_ctas = options.max_ctas;
  if (handle_.connect(world_size(), rank(), id, config) == NcclState::kFailed) {
    fail(fmt::format("{}: {}; NCCL_DEBUG=INFO tells more",
                     roll_call_of_host().describe_rank(rank()), handle_.what()));
  }
  wait_until_ready("connect the ranks");
  host().barrier("nccl");  // a rank that did not connect is named here
}

// Until NCCL says that it has done what was asked last, in the background.
void NcclCommunicator::wait_until_ready(const std::string& what) {
  const Deadline deadline = default_deadline();
  Backoff backoff(true);
  while (true) {
    const NcclState state = handle_.state();
    if (state == NcclState::kReady) return;
    if (state != NcclState::kInProgress) {
      host().progress();
      fail(fmt::format("{}: could not {}: {}; NCCL_DEBUG=INFO tells more",
                       roll_call_of_host().describe_rank(rank()), what, handle_.what()));
    }
    backoff.pause();
    if (!backoff.time_to_check()) continue;
    roll_call_of_host().look_for_dead_peers();
    if (std::chrono::steady_clock::now() > deadline) {
      fail(fmt::format("{}: NCCL did not {} within {:.3g} s; NCCL_DEBUG=INFO tells more",
                       roll_call_of_host().describe_rank(rank()), what,
                       std::chrono::duration<double>(timeout()).count()));
    }
  }
}

// With nothing under way NCCL's own farewell returns at once on every rank.
void NcclCommunicator::leave() {
  RollCall& roll_call = roll_call_of_host();
  const Deadline deadline = default_deadline();
  Backoff backoff(true);
  while (!flights_.empty()) {
    if (roll_call.failed() || std::chrono::steady_clock::now() > deadline) return;
    if (handle_.state() == NcclState::kFailed) return;
    complete_flights();
    if (!flights_.empty()) backoff.pause();
  }
  if (roll_call.failed() || handle_.finalize() == NcclState::kFailed) return;
  wait_until_ready("leave the group");
  handle_.destroy();
}

}  // namespace lockstep::comm
