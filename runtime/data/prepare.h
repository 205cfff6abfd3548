#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runtime/data/prepared_meta.h"

namespace lockstep::runtime {

// Whether a prepared directory that differs may be replaced.
enum class Overwrite { kRefuse, kReplace };

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;  // texts, or directories of texts; see corpus.h
  std::filesystem::path output;               // the directory to make
  std::string tokenizer = "bytes";
  double validation_fraction = 0.1;  // in [0, 1): the last part of the text, cut between two lines
  Overwrite overwrite = Overwrite::kRefuse;
};

struct PrepareResult {
  PreparedMeta meta;
  bool unchanged = false;  // the directory already held exactly this
};

// `lockstep data prepare`: texts to a prepared directory (runtime/data/token_file.h). Equal input
// gives equal bytes. The directory is written under another name, synced and renamed, so that it is
// whole or absent. An output that exists and differs is refused (Error(kConfig)) unless
// overwrite is kReplace, and then too when it holds anything else than a prepared directory does.
// Throws Error(kConfig) for bad options, Error(kData) for what cannot be read or written.
PrepareResult prepare_data(const PrepareOptions& options);

}  // namespace lockstep::runtime
