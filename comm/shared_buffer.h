#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "core/tensor.h"

namespace lockstep::comm {

// Owning, move-only, zero-filled memory of one rank, made by Communicator::allocate (where the
// contract stands): of the host, aligned to 64 bytes, which the ranks of its node can read
// directly; or of a device, aligned to 256 bytes.
class SharedBuffer {
 public:
  // What a backend keeps alive for a buffer; its destructor gives the memory back.
  class Storage {
   public:
    Storage(void* data, std::size_t bytes, core::Device device = {})
        : data_(data), bytes_(bytes), device_(device) {}
    virtual ~Storage() = default;
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;

    void* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }
    core::Device device() const { return device_; }

   private:
    void* data_;
    std::size_t bytes_;
    core::Device device_;
  };

  SharedBuffer() = default;
  explicit SharedBuffer(std::unique_ptr<Storage> storage) : storage_(std::move(storage)) {}

  void* data() const { return storage_ == nullptr ? nullptr : storage_->data(); }
  std::size_t bytes() const { return storage_ == nullptr ? 0 : storage_->bytes(); }
  bool empty() const { return bytes() == 0; }
  core::Device device() const { return storage_ == nullptr ? core::Device{} : storage_->device(); }

  // A view of `shape` elements of `dtype` beginning `byte_offset` bytes in; checked against the
  // size.
  core::TensorView view(core::DType dtype, core::Shape shape, std::size_t byte_offset = 0) const;

 private:
  std::unique_ptr<Storage> storage_;
};

}  // namespace lockstep::comm
