#include "runtime/data/open_dataset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace lockstep::runtime {

namespace {

DealingOptions dealing(const Config& config, DataOrder order) {
  DealingOptions options;
  options.order = order;
  options.seed = config.run.seed;
  options.context = config.model.context;
  options.vocab = config.model.vocab;
  return options;
}

}  // namespace

std::unique_ptr<TokenDataset> open_training_data(const Config& config) {
  return std::make_unique<TokenDataset>(
      open_token_files(config.data.train, config.data.token_type, DataSplit::kTrain),
      dealing(config, config.data.order));
}

std::unique_ptr<TokenDataset> open_validation_data(const Config& config) {
  if (config.data.validation.empty()) return nullptr;
  return std::make_unique<TokenDataset>(
      open_token_files(config.data.validation, config.data.token_type, DataSplit::kValidation),
      dealing(config, DataOrder::kSequential));
}

std::string describe_data(const std::string& key, const TokenDataset& data) {
  constexpr std::size_t kListed = 8;
  std::vector<std::string> names;
  bool masked = false;
  for (const TokenFile& file : data.files()) {
    if (names.size() < kListed) names.push_back(file.path().filename().string());
    masked = masked || file.masked();
  }
  const std::size_t count = data.files().size();
  std::string text = fmt::format("{}: {} file{}, {} sequences: {}", key, count,
                                 count == 1 ? "" : "s", data.sequences(), fmt::join(names, ", "));
  if (count > kListed) text += fmt::format(" and {} more", count - kListed);
  if (count > 1) text += " (in the order of the list; the matches of a pattern in natural order)";
  if (masked) text += "; masks beside them say which tokens are targets";
  return text;
}

std::string suspicion(const TokenDataset& data) {
  constexpr std::int64_t kLargestUint16Vocab = 65536;
  if (data.options().vocab <= kLargestUint16Vocab) return "";
  for (const TokenFile& file : data.files()) {
    const bool raw = file.format() == TokenFormat::kRaw;
    if (!raw || file.token_type() != core::DType::kU16) continue;
    return fmt::format(
        "{} holds 16-bit ids, and model.vocab {} needs ids above 65535: if it was "
        "written with 32-bit ids, set data.token_type: uint32",
        file.path().string(), data.options().vocab);
  }
  return "";
}

}  // namespace lockstep::runtime
