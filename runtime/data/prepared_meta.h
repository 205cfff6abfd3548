#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace lockstep::runtime {

// One text that went into a prepared directory: its file name, size and XXH3-64.
struct SourceText {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t hash = 0;
};

// meta.json of a prepared directory, an object:
//   version            1
//   tokenizer          object, as Tokenizer::description() writes it
//   vocab              ids are in [0, vocab)
//   token_type         "uint16" or "uint32", little-endian, of both files
//   train_tokens       in train.bin, which holds nothing else
//   validation_tokens  in validation.bin; with 0 there is no such file
//   sources            [{name, bytes, xxh3}], in the order in which they were read
struct PreparedMeta {
  std::string tokenizer;  // JSON text
  std::int64_t vocab = 0;
  core::DType token_type = core::DType::kU16;
  std::uint64_t train_tokens = 0;
  std::uint64_t validation_tokens = 0;
  std::vector<SourceText> sources;
};

inline constexpr const char* kMetaFile = "meta.json";
inline constexpr const char* kTrainFile = "train.bin";
inline constexpr const char* kValidationFile = "validation.bin";

std::string_view token_type_name(core::DType token_type);  // "uint16", "uint32"

std::string to_json(const PreparedMeta& meta);  // deterministic, ends in a newline

// Reads DIRECTORY/meta.json. Throws Error(kData) when it is missing, no JSON, of another version,
// or a field is missing or of a wrong type or value.
PreparedMeta read_prepared_meta(const std::filesystem::path& directory);

}  // namespace lockstep::runtime
