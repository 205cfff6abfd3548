#include "runtime/metrics/record_file.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/system_error.h"

namespace lockstep::runtime {

namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
  constexpr std::uint32_t kPolynomial = 0x82f63b78;  // of Castagnoli, bits reversed
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
    std::uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit)
      rest = (rest >> 1) ^ ((rest & 1) != 0 ? kPolynomial : 0);
    table[byte] = rest;
  }
  return table;
}

template <typename T>
std::string little_endian(T value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    bytes.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return bytes;
}

template <typename T>
T from_little_endian(std::string_view bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value |= static_cast<T>(static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i));
  return value;
}

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kCrcBytes = 4;

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> kTable = make_table();
  std::uint32_t crc = 0xffffffff;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

std::string framed_record(std::string_view data) {
  const std::string length = little_endian(static_cast<std::uint64_t>(data.size()));
  std::string record = length + little_endian(masked_crc32c(length));
  record += data;
  return record + little_endian(masked_crc32c(data));
}

std::uint64_t visit_records(
    const std::string& path,
    const std::function<bool(std::string_view data, std::uint64_t offset)>& visit) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (in && in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  if (!in.is_open() || !text) {
    throw core::Error(core::ErrorKind::kData,
                      fmt::format("{}: cannot read: {}", path, core::describe_errno(errno)));
  }
  const std::string all = std::move(text).str();
  std::size_t at = 0;
  while (all.size() - at >= kLengthBytes + kCrcBytes) {
    const std::string_view rest = std::string_view(all).substr(at);
    const std::string_view length = rest.substr(0, kLengthBytes);
    const auto size = from_little_endian<std::uint64_t>(length);
    const auto crc = from_little_endian<std::uint32_t>(rest.substr(kLengthBytes, kCrcBytes));
    const std::size_t room = rest.size() - kLengthBytes - kCrcBytes;
    if (crc != masked_crc32c(length) || room < kCrcBytes || size > room - kCrcBytes) break;
    const std::string_view data = rest.substr(kLengthBytes + kCrcBytes, size);
    const std::string_view end = rest.substr(kLengthBytes + kCrcBytes + size, kCrcBytes);
    if (from_little_endian<std::uint32_t>(end) != masked_crc32c(data)) break;
    if (!visit(data, at)) break;
    at += kLengthBytes + 2 * kCrcBytes + size;
  }
  return at;
}

}  // namespace lockstep::runtime
