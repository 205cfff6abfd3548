#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstring>
#include <string>

#include "core/cuda/nvidia/runtime.h"
#include "core/cuda_build.h"

namespace lockstep::core::cuda {

namespace {

// CUDA packs 13.1 as 13010.
std::string major_minor(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

void put(const std::string& text, char (&to)[128]) {
  std::strncpy(to, text.c_str(), sizeof(to) - 1);
  to[sizeof(to) - 1] = '\0';
}

std::string cuda_version() {
  int runtime = 0;
  int driver = 0;
  cudaRuntimeGetVersion(&runtime);
  const bool asked = cudaDriverGetVersion(&driver) == cudaSuccess;
  const std::string found =
      !asked || driver == 0 ? "no driver" : fmt::format("driver for CUDA {}", major_minor(driver));
  return fmt::format("{} for {}, {}", major_minor(runtime), kCudaArchitectures, found);
}

std::string cublaslt_version() {
  const std::size_t version = cublasLtGetVersion();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

// A library that is used where it is found, and not linked.
template <typename F>
std::string optional_version(const char* file, const char* function, F&& text_of) {
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return fmt::format("absent: {}", reason == nullptr ? file : reason);
  }
  void* found = dlsym(library, function);
  const std::string text =
      found == nullptr ? fmt::format("absent: {} has no {}", file, function) : text_of(found);
  dlclose(library);
  return text;
}

std::string cudnn_version() {
  return optional_version("libcudnn.so.9", "cudnnGetVersion", [](void* function) {
    const std::size_t v = reinterpret_cast<std::size_t (*)()>(function)();
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  });
}

std::string nccl_version() {
  return optional_version("libnccl.so.2", "ncclGetVersion", [](void* function) {
    int v = 0;
    reinterpret_cast<int (*)(int*)>(function)(&v);
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  });
}

}  // namespace

void describe_versions(ModuleVersions* versions) {
  put(cuda_version(), versions->cuda);
  put(cublaslt_version(), versions->cublaslt);
  put(cudnn_version(), versions->cudnn);
  put(nccl_version(), versions->nccl);
}

}  // namespace lockstep::core::cuda
