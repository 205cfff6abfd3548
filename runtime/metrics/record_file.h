#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace lockstep::runtime {

// Records as event files frame them: length (uint64, little-endian), masked CRC of these 8 bytes,
// data, masked CRC of the data.

// CRC-32C (Castagnoli; RFC 3720, appendix B.4), and as records hold it: rotated right by 15 bits,
// plus 0xa282ead8.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

std::string framed_record(std::string_view data);

// Calls visit(data, offset) for each whole record of a file from the front, until it returns false.
// Returns where it ended: behind the last record for which visit returned true. What is torn or altered ends
// it too. Throws Error(kData) when the file cannot be read.
std::uint64_t visit_records(
    const std::string& path,
    const std::function<bool(std::string_view data, std::uint64_t offset)>& visit);

}  // namespace lockstep::runtime
