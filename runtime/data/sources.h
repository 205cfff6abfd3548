#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::runtime {

// The mask of train.bin is train.mask (runtime/data/token_file.h). No pattern matches one.
inline constexpr std::string_view kMaskExtension = ".mask";

// The files behind `data.train` or `data.validation`, in the order in which their sequences are
// dealt: that of the list. A source is a file, a prepared directory or a glob pattern (used as one
// only if no file has that very name), whose matches come in natural order. Throws Error(kData) for
// a pattern without a match and for a file named twice.
std::vector<std::filesystem::path> expand_sources(const std::vector<std::string>& sources);

// Whether a comes before b: runs of digits compare as numbers, all else bytewise, so that
// shard-2 comes before shard-10. Names that are equal in this sense compare bytewise.
bool natural_less(std::string_view a, std::string_view b);

}  // namespace lockstep::runtime
