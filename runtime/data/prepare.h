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
  // In [0, 1): the last part of the text, cut between two lines. Of documents: those whose hash
  // falls into this share.
  double validation_fraction = 0.1;
  std::string text_field = "text";  // of the objects in .jsonl files
  Overwrite overwrite = Overwrite::kRefuse;
};

struct PrepareResult {
  PreparedMeta meta;
  bool unchanged = false;  // the directory already held exactly this
};

// `lockstep data prepare`: texts to a prepared directory (runtime/data/token_file.h). With a .jsonl
// file among the inputs they are documents: its lines, and each other file as one. Each is encoded by
// itself and ended by the tokenizer's end-of-text token (where it has none, by a newline). Equal input
// gives equal bytes. The directory is written under another name, synced and renamed, so that it is
// whole or absent. An output that exists and differs is refused (Error(kConfig)) unless
// overwrite is kReplace, and then too when it holds anything else than a prepared directory does.
// Throws Error(kConfig) for bad options, Error(kData) for what cannot be read or written.
PrepareResult prepare_data(const PrepareOptions& options);

}  // namespace lockstep::runtime
