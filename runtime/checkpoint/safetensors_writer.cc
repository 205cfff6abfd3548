#include "runtime/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/error.h"
#include "core/system_error.h"

namespace lockstep::runtime {

namespace {

constexpr std::size_t kHeaderAlignment = 8;
constexpr std::size_t kLargestWrite = 64 << 20;

const char* stored_name(core::DType dtype) {
  switch (dtype) {
    case core::DType::kF32:
      return "F32";
    case core::DType::kBF16:
      return "BF16";
    case core::DType::kF16:
      return "F16";
    case core::DType::kF64:
      return "F64";
    case core::DType::kI32:
      return "I32";
    case core::DType::kI64:
      return "I64";
    case core::DType::kU8:
      return "U8";
    case core::DType::kU16:
      return "U16";
    case core::DType::kU32:
      return "U32";
  }
  core::fail_check(__FILE__, __LINE__, "dtype", "unknown element type");
}

std::uint64_t bytes_of(const TensorToWrite& tensor) {
  std::uint64_t bytes = core::size_of(tensor.dtype);
  for (const std::int64_t extent : tensor.shape) {
    LOCKSTEP_CHECK(extent >= 0, "tensor {} with a dimension of {}", tensor.name, extent);
    bytes *= static_cast<std::uint64_t>(extent);
  }
  return bytes;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorToWrite> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), tensors_(std::move(tensors)) {
  std::set<std::string> names{"__metadata__"};
  for (const TensorToWrite& tensor : tensors_) {
    LOCKSTEP_CHECK(names.insert(tensor.name).second, "tensor name {} used twice or reserved",
                   tensor.name);
    tensor_bytes_.push_back(bytes_of(tensor));
  }
  const std::string header = make_header(metadata);
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("created");
  try {
    const std::uint64_t length = header.size();
    write_bytes(&length, sizeof(length));
    write_bytes(header.data(), header.size());
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::string SafetensorsWriter::make_header(
    const std::map<std::string, std::string>& metadata) const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    auto& entry = header[tensors_[i].name];
    entry["dtype"] = stored_name(tensors_[i].dtype);
    entry["shape"] = tensors_[i].shape;
    entry["data_offsets"] = {offset, offset + tensor_bytes_[i]};
    offset += tensor_bytes_[i];
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  return text;
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  LOCKSTEP_CHECK(descriptor_ >= 0, "{}: written to after finish()", path_.string());
  while (current_ < tensors_.size() && written_of_current_ == tensor_bytes_[current_] &&
         tensors_[current_].name != name) {
    ++current_;
    written_of_current_ = 0;
  }
  LOCKSTEP_CHECK(current_ < tensors_.size() && tensors_[current_].name == name,
                 "{}: tensor {} written out of order", path_.string(), name);
  LOCKSTEP_CHECK_LE(bytes.size(), tensor_bytes_[current_] - written_of_current_,
                    "bytes of tensor " + name);
  write_bytes(bytes.data(), bytes.size());
  written_of_current_ += bytes.size();
}

WrittenFile SafetensorsWriter::finish(Durability durability) {
  while (current_ < tensors_.size() && written_of_current_ == tensor_bytes_[current_]) {
    ++current_;
    written_of_current_ = 0;
  }
  LOCKSTEP_CHECK(current_ == tensors_.size(), "{}: tensor {} is incomplete", path_.string(),
                 tensors_[current_].name);
  if (durability == Durability::kSynced && ::fsync(descriptor_) != 0) fail("synced to disk");
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("closed");
  return {bytes_, hash_.digest()};
}

void SafetensorsWriter::write_bytes(const void* data, std::size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  hash_.update(from, bytes);
  bytes_ += bytes;
  while (bytes > 0) {
    const ssize_t n = ::write(descriptor_, from, std::min(bytes, kLargestWrite));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("written");
    from += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

void SafetensorsWriter::fail(const std::string& what) const {
  const std::string reason = core::describe_errno(errno);
  throw core::Error(core::ErrorKind::kData,
                    fmt::format("{}: expected a file that can be {}, found: {}; free space or "
                                "choose another place",
                                path_.string(), what, reason));
}

}  // namespace lockstep::runtime
