#include "ops/cuda/cudnn/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace lockstep::ops::cuda {

namespace {

constexpr const char* kCudnnFile = "libcudnn.so.9";

// Passes every call on to the part of cuDNN that has it, and loads that part itself.
class Symbols {
 public:
  Symbols()
      // Never unloaded: handles of other contexts may live on.
      : library_(dlopen(kCudnnFile, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) {
    if (library_ != nullptr) return;
    const char* reason = dlerror();
    throw CudnnRefusal(fmt::format("cuDNN is absent: {}", reason == nullptr ? kCudnnFile : reason));
  }

  template <typename F>
  void find(F& function, const char* name) const {
    void* found = dlsym(library_, name);
    if (found == nullptr) throw CudnnRefusal(fmt::format("{} has no {}", kCudnnFile, name));
    function = reinterpret_cast<F>(found);
  }

 private:
  void* library_;
};

std::string text_of_version(std::size_t version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace

CudnnLibrary CudnnLibrary::open() {
  const Symbols symbols;
  CudnnLibrary library{};
  symbols.find(library.get_version, "cudnnGetVersion");
  const std::size_t version = library.get_version();
  if (version < kOldestCudnn) {
    throw CudnnRefusal(fmt::format("cuDNN {} is too old: attention needs {} or newer",
                                   text_of_version(version), text_of_version(kOldestCudnn)));
  }
  symbols.find(library.get_error_string, "cudnnGetErrorString");
  symbols.find(library.get_last_error_string, "cudnnGetLastErrorString");
  symbols.find(library.create, "cudnnCreate");
  symbols.find(library.destroy, "cudnnDestroy");
  symbols.find(library.set_stream, "cudnnSetStream");
  symbols.find(library.create_descriptor, "cudnnBackendCreateDescriptor");
  symbols.find(library.destroy_descriptor, "cudnnBackendDestroyDescriptor");
  symbols.find(library.set_attribute, "cudnnBackendSetAttribute");
  symbols.find(library.get_attribute, "cudnnBackendGetAttribute");
  symbols.find(library.finalize, "cudnnBackendFinalize");
  symbols.find(library.execute, "cudnnBackendExecute");
  return library;
}

std::string CudnnLibrary::explain(cudnnStatus_t status, const char* what) const {
  char words[1024] = "";
  get_last_error_string(words, sizeof(words));
  return fmt::format("{}: cuDNN status {}: {}{}{}", what, static_cast<int>(status),
                     get_error_string(status), words[0] == '\0' ? "" : ": ", words);
}

void CudnnLibrary::check(cudnnStatus_t status, const char* what) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  if (status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
      status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) {
    throw core::Error(core::ErrorKind::kOutOfMemory, explain(status, what));
  }
  throw CudnnRefusal(explain(status, what));
}

std::string CudnnLibrary::version() const {
  return text_of_version(get_version());
}

CudnnDescriptor::CudnnDescriptor(const CudnnLibrary& library, cudnnBackendDescriptorType_t type)
    : library_(&library) {
  library.check(library.create_descriptor(type, &raw_), "making a descriptor");
}

CudnnDescriptor& CudnnDescriptor::finalize(const char* what) {
  library_->check(library_->finalize(raw_), what);
  return *this;
}

CudnnDescriptor& CudnnDescriptor::set_raw(cudnnBackendAttributeName_t name,
                                          cudnnBackendAttributeType_t type, std::int64_t count,
                                          const void* values) {
  const cudnnStatus_t status = library_->set_attribute(raw_, name, type, count, values);
  if (status != CUDNN_STATUS_SUCCESS) {
    library_->check(status, fmt::format("setting attribute {}", static_cast<int>(name)).c_str());
  }
  return *this;
}

std::int64_t CudnnDescriptor::number(cudnnBackendAttributeName_t name) const {
  std::int64_t value = 0;
  std::int64_t count = 0;
  library_->check(library_->get_attribute(raw_, name, CUDNN_TYPE_INT64, 1, &count, &value),
                  "reading a number");
  return value;
}

std::int64_t CudnnDescriptor::descriptors(cudnnBackendAttributeName_t name,
                                          std::vector<CudnnDescriptor>& into) const {
  std::vector<cudnnBackendDescriptor_t> raws;
  for (const CudnnDescriptor& descriptor : into)
    raws.push_back(descriptor.raw_);
  std::int64_t count = 0;
  library_->check(library_->get_attribute(raw_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                          static_cast<std::int64_t>(raws.size()), &count,
                                          raws.empty() ? nullptr : static_cast<void*>(raws.data())),
                  "reading descriptors");
  return count;
}

}  // namespace lockstep::ops::cuda
