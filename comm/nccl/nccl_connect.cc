// How a group over NCCL is made and left.

#include <array>
#include <cstdlib>
#include <utility>

#include "comm/exchange/backoff.h"
#include "comm/nccl/nccl_communicator.h"
#include "comm/nccl/nccl_library.h"
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

// It would win over what the communicator is told.
constexpr Setting kCopyEngines = {"NCCL_CTA_POLICY", "2"};

// What the environment says otherwise, or nothing.
std::string contradiction(const Setting& setting, const char* purpose) {
  const char* present = std::getenv(setting.name);
  if (present == nullptr || std::string_view(present) == setting.value) return "";
  return fmt::format("{}={} in the environment, but {} need {}={}; unset it, or do without {}",
                     setting.name, present, purpose, setting.name, setting.value, purpose);
}

// NCCL reads its environment once in the life of a process.
std::string set_repeatable() {
  for (const Setting& setting : kRepeatable) {
    std::string problem = contradiction(setting, "repeatable sums");
    if (!problem.empty()) return problem;
  }
  for (const Setting& setting : kRepeatable)
    setenv(setting.name, setting.value, 1);
  return "";
}

// What keeps this rank from doing as the options say, or nothing.
std::string prepare(const nccl::Api& api, const NcclOptions& options) {
  std::string problem = nccl_lacks(api, options.buffers);
  if (!problem.empty()) {
    return fmt::format("backend.nccl_buffers {}: {}", name_of(options.buffers), problem);
  }
  if (options.buffers == NcclBuffers::kSymmetric) {
    problem = contradiction(kCopyEngines, "symmetric buffers");
  }
  return problem.empty() && options.repeatable ? set_repeatable() : problem;
}

nccl::Config config_of(const NcclOptions& options) {
  nccl::Config config;
  if (options.max_ctas > 0) config.max_ctas = options.max_ctas;
  if (options.buffers == NcclBuffers::kSymmetric) {
    config.version = nccl::kCopyEngineVersion;
    config.cta_policy = nccl::kCtaPolicyZero;
  }
  return config;
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
      buffers_(options.buffers),
      handle_(std::make_shared<NcclHandle>(api)),
      stream_(device),
      last_resort_(device, stream_, roll_call_of_host(), options),
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
  if (!flights_.empty()) last_resort_.expect_free();
  handle_->abort();  // nothing, after a leave that came to its end
}

// Errors of NCCL come to this rank alone, so the group fails with them.
void NcclCommunicator::fail(const std::string& text) {
  roll_call_of_host().fail_with(ErrorKind::kCommunication, text);
  handle_->abort();
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
  const auto problems = host().all_gather_bytes(prepare(api_, options), "nccl");
  for (std::size_t r = 0; r < problems.size(); ++r) {
    if (problems[r].empty()) continue;
    throw core::Error(ErrorKind::kConfig, fmt::format("rank {}: {}", r, problems[r]));
  }
  const nccl::UniqueId id = agree_on_id();
  core::check_device(*device_ref().runtime, device_ref().runtime->use(device().index),
                     "opening the device for NCCL");
  finish(handle_->connect(world_size(), rank(), id, config_of(options)), "connect the ranks");
  host().barrier("nccl");  // a rank that did not connect is named here
}

// Until NCCL has done, in the background, what it was asked last. asked: what it answered, which is
// not the end of it even when it looks so.
void NcclCommunicator::finish(NcclState asked, const std::string& what) {
  const Deadline deadline = default_deadline();
  Backoff backoff(true);
  NcclState state = asked;
  while (true) {
    if (state == NcclState::kFailed || state == NcclState::kGone) {
      host().progress();
      fail(fmt::format("{}: could not {}: {}; NCCL_DEBUG=INFO tells more",
                       roll_call_of_host().describe_rank(rank()), what, handle_->what()));
    }
    state = handle_->state();
    if (state == NcclState::kReady) return;
    if (state != NcclState::kInProgress) continue;
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
    if (handle_->state() == NcclState::kFailed) return;
    complete_flights();
    if (!flights_.empty()) backoff.pause();
  }
  if (roll_call.failed()) return;
  // Of buffers that outlive the communicator.
  for (const std::uint64_t number : handle_->registrations()) {
    if (handle_->deregister(number, deadline) != NcclState::kReady) return;
  }
  finish(handle_->finalize(), "leave the group");
  handle_->destroy();
}

}  // namespace lockstep::comm
