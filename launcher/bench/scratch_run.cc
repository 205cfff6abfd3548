#include "launcher/bench/scratch_run.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "runtime/ranks/agree.h"

namespace lockstep::launcher {

namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMostBytes = std::int64_t{64} << 20;

std::string make_directory() {
  std::string name = (fs::temp_directory_path() / "lockstep-bench-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw core::Error(core::ErrorKind::kConfig,
                      fmt::format("cannot make the directory {} for the measured run: {}; give "
                                  "TMPDIR a directory that can be written",
                                  name, std::strerror(errno)));
  }
  fs::create_directory(name + "/checkpoints");
  return name;
}

template <typename Token>
std::string random_tokens(std::int64_t count, std::int64_t vocab) {
  std::string bytes(static_cast<std::size_t>(count) * sizeof(Token), '\0');
  std::vector<float> drawn(static_cast<std::size_t>(count));
  core::fill_uniform(core::stream_key(3, "benchmark"), 0.0F, static_cast<float>(vocab),
                     drawn.data(), drawn.size());
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    const auto id = static_cast<Token>(std::min(static_cast<std::int64_t>(drawn[i]), vocab - 1));
    std::memcpy(bytes.data() + i * sizeof(Token), &id, sizeof(Token));
  }
  return bytes;
}

void write_tokens(const std::string& file, const runtime::Config& config, std::int64_t steps) {
  const auto size = static_cast<std::int64_t>(core::size_of(config.data.token_type));
  const std::int64_t all = steps * config.batch.global * config.model.context + 1;
  const std::int64_t count = std::max(std::min(all, kMostBytes / size), config.model.context + 1);
  std::ofstream out(file, std::ios::binary);
  out << (config.data.token_type == core::DType::kU16
              ? random_tokens<std::uint16_t>(count, config.model.vocab)
              : random_tokens<std::uint32_t>(count, config.model.vocab));
  if (!out.flush()) {
    throw core::Error(
        core::ErrorKind::kData,
        fmt::format("cannot write {} ({} tokens): is the disk of TMPDIR full?", file, count));
  }
}

}  // namespace

ScratchRun::ScratchRun(runtime::Config& config, std::int64_t steps, bool synthetic,
                       comm::Communicator& communicator)
    : owner_(communicator.rank() == 0) {
  if (synthetic) {
    const bool narrow = config.model.vocab <= (1 << 16);
    config.data.token_type = narrow ? core::DType::kU16 : core::DType::kU32;
  }
  runtime::agree(communicator, "directory of the measured run", [&] {
    if (!owner_) return;
    directory_ = make_directory();
    try {
      if (synthetic) write_tokens(directory_ + "/tokens.bin", config, steps);
    } catch (...) {
      remove();
      throw;
    }
  });
  directory_ = communicator.all_gather_bytes(directory_, "directory of the measured run").front();
  if (synthetic) config.data.train = {directory_ + "/tokens.bin"};
  config.data.validation.clear();
  config.run.output = directory_;
  config.checkpoint.every_steps = 0;
  config.train.steps = std::max(config.train.steps, steps + 1);  // the last one would be saved
}

ScratchRun::~ScratchRun() {
  remove();
}

void ScratchRun::remove() noexcept {
  std::error_code ignored;
  if (owner_) fs::remove_all(directory_, ignored);
}

}  // namespace lockstep::launcher
