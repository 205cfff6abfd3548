#pragma once

#include <cudnn_graph.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/error.h"

// cuDNN's graph interface as far as Lockstep uses it. The library is not linked: libcudnn.so.9 is
// looked for at run time, so that the module loads where it is absent.
namespace lockstep::ops::cuda {

// cuDNN does not serve what was described to it, here or at all; others may.
class CudnnRefusal : public core::Error {
 public:
  explicit CudnnRefusal(const std::string& why) : core::Error(core::ErrorKind::kConfig, why) {}
};

// The oldest release whose attention is used: 9.10.0 and 9.10.1 compute some of it wrongly, older
// ones want other masks.
inline constexpr std::size_t kOldestCudnn = 91002;
// Up to this release the gradients are wrong in lengths that are no multiple of 128, unless the
// graph masks the rest explicitly.
inline constexpr std::size_t kCudnnNeedsFullTiles = 91500;

struct CudnnLibrary {
  decltype(&cudnnGetVersion) get_version;
  decltype(&cudnnGetErrorString) get_error_string;
  decltype(&cudnnGetLastErrorString) get_last_error_string;
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor;
  decltype(&cudnnBackendSetAttribute) set_attribute;
  decltype(&cudnnBackendGetAttribute) get_attribute;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;

  // Throws CudnnRefusal saying what is missing, or how old it is.
  static CudnnLibrary open();

  // Returns on success. Throws Error(kOutOfMemory) when memory ran out, CudnnRefusal otherwise,
  // with cuDNN's own words.
  void check(cudnnStatus_t status, const char* what) const;
  std::string explain(cudnnStatus_t status, const char* what) const;
  std::string version() const;  // "9.19.0"
};

// Owning, move-only: a descriptor of cuDNN, by which it is told everything, attribute by attribute.
// The library must outlive it.
class CudnnDescriptor {
 public:
  CudnnDescriptor(const CudnnLibrary& library, cudnnBackendDescriptorType_t type);
  ~CudnnDescriptor() {
    if (raw_ != nullptr) library_->destroy_descriptor(raw_);
  }
  CudnnDescriptor(CudnnDescriptor&& other) noexcept
      : library_(other.library_), raw_(std::exchange(other.raw_, nullptr)) {}
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept {
    std::swap(library_, other.library_);
    std::swap(raw_, other.raw_);
    return *this;
  }

  cudnnBackendDescriptor_t raw() const { return raw_; }

  template <typename V>
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, const V& value) {
    return set(name, 1, &value);
  }
  template <typename V>
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, const std::vector<V>& values) {
    return set(name, values.size(), values.data());
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, const std::string& text) {
    return set(name, text.size(), text.data());
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    return set(name, 1, &value.raw_);
  }
  // Addresses of memory; a descriptor is a void* too.
  CudnnDescriptor& set_pointers(cudnnBackendAttributeName_t name,
                                const std::vector<void*>& pointers) {
    return set_raw(name, CUDNN_TYPE_VOID_PTR, static_cast<std::int64_t>(pointers.size()),
                   pointers.data());
  }
  // All attributes are set; cuDNN looks at them. Returns itself.
  CudnnDescriptor& finalize(const char* what);

  std::int64_t number(cudnnBackendAttributeName_t name) const;
  // What is found is written into `into`, a descriptor of the right type. Returns how many there
  // are.
  std::int64_t descriptors(cudnnBackendAttributeName_t name,
                           std::vector<CudnnDescriptor>& into) const;

 private:
  template <typename V>
  static constexpr cudnnBackendAttributeType_t type_of() {
    if constexpr (std::is_same_v<V, std::int64_t>) return CUDNN_TYPE_INT64;
    if constexpr (std::is_same_v<V, bool>) return CUDNN_TYPE_BOOLEAN;
    if constexpr (std::is_same_v<V, char>) return CUDNN_TYPE_CHAR;
    if constexpr (std::is_same_v<V, cudnnHandle_t>) return CUDNN_TYPE_HANDLE;
    if constexpr (std::is_same_v<V, cudnnBackendDescriptor_t>) return CUDNN_TYPE_BACKEND_DESCRIPTOR;
    if constexpr (std::is_same_v<V, cudnnDataType_t>) return CUDNN_TYPE_DATA_TYPE;
    if constexpr (std::is_same_v<V, cudnnPointwiseMode_t>) return CUDNN_TYPE_POINTWISE_MODE;
    if constexpr (std::is_same_v<V, cudnnReduceTensorOp_t>) {
      return CUDNN_TYPE_REDUCTION_OPERATOR_TYPE;
    }
    if constexpr (std::is_same_v<V, cudnnBackendHeurMode_t>) return CUDNN_TYPE_HEUR_MODE;
  }
  template <typename V>
  CudnnDescriptor& set(cudnnBackendAttributeName_t name, std::size_t count, const V* values) {
    return set_raw(name, type_of<V>(), static_cast<std::int64_t>(count), values);
  }
  CudnnDescriptor& set_raw(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                           std::int64_t count, const void* values);

  const CudnnLibrary* library_;
  cudnnBackendDescriptor_t raw_ = nullptr;
};

}  // namespace lockstep::ops::cuda
