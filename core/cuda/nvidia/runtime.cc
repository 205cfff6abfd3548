#include "core/cuda/nvidia/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "core/cuda/nvidia/probe.h"

// The runtime functions of CUDA. Each thread has its own current device, so whatever makes
// something on a device names it first.
namespace lockstep::core::cuda {

namespace {

cudaStream_t native(DeviceStreamHandle* stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

cudaEvent_t native(DeviceEventHandle* event) {
  return reinterpret_cast<cudaEvent_t>(event);
}

// A code that was reported once is not to be reported again by a later, innocent call.
int told(cudaError_t code) {
  if (code != cudaSuccess) cudaGetLastError();
  return static_cast<int>(code);
}

int count(int* devices) {
  *devices = 0;
  return told(cudaGetDeviceCount(devices));
}

int properties(int device, DeviceProperties* p) {
  cudaDeviceProp native_properties;
  const cudaError_t code = cudaGetDeviceProperties(&native_properties, device);
  if (code != cudaSuccess) return told(code);
  *p = {};
  std::memcpy(p->name, native_properties.name,
              std::min(sizeof(p->name), std::strlen(native_properties.name)));
  p->name[sizeof(p->name) - 1] = '\0';
  p->major = native_properties.major;
  p->minor = native_properties.minor;
  p->multiprocessors = native_properties.multiProcessorCount;
  p->total_memory = native_properties.totalGlobalMem;
  p->shared_memory_limit = native_properties.sharedMemPerBlockOptin;
  return 0;
}

// Making a device current does not tell whether it can be used; freeing nothing does, and asking
// for a kernel tells whether the module was built for it.
int use(int device) {
  cudaError_t code = cudaSetDevice(device);
  if (code == cudaSuccess) code = cudaFree(nullptr);
  if (code == cudaSuccess) code = static_cast<cudaError_t>(find_kernel_image());
  return told(code);
}

int memory_info(int device, std::size_t* free, std::size_t* total) {
  const cudaError_t code = cudaSetDevice(device);
  return told(code == cudaSuccess ? cudaMemGetInfo(free, total) : code);
}

int allocate(int device, std::size_t bytes, void** memory) {
  const cudaError_t code = cudaSetDevice(device);
  return told(code == cudaSuccess ? cudaMalloc(memory, bytes) : code);
}

int release(void* memory) {
  return told(cudaFree(memory));
}

int allocate_pinned(std::size_t bytes, void** memory) {
  return told(cudaMallocHost(memory, bytes));
}

int release_pinned(void* memory) {
  return told(cudaFreeHost(memory));
}

int copy(void* to, const void* from, std::size_t bytes, CopyKind kind, DeviceStreamHandle* stream) {
  const cudaMemcpyKind native_kind = kind == CopyKind::kHostToDevice   ? cudaMemcpyHostToDevice
                                     : kind == CopyKind::kDeviceToHost ? cudaMemcpyDeviceToHost
                                                                       : cudaMemcpyDeviceToDevice;
  return told(cudaMemcpyAsync(to, from, bytes, native_kind, native(stream)));
}

int fill(void* memory, int byte, std::size_t bytes, DeviceStreamHandle* stream) {
  if (stream != nullptr) return told(cudaMemsetAsync(memory, byte, bytes, native(stream)));
  // Without a stream: done when the call returns, before anything on any stream may use it.
  const cudaError_t code = cudaMemset(memory, byte, bytes);
  return told(code == cudaSuccess ? cudaStreamSynchronize(nullptr) : code);
}

// Streams do not wait for the default stream, which nothing here uses for work.
int create_stream(int device, DeviceStreamHandle** stream) {
  cudaError_t code = cudaSetDevice(device);
  cudaStream_t made = nullptr;
  if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  *stream = reinterpret_cast<DeviceStreamHandle*>(made);
  return told(code);
}

int destroy_stream(DeviceStreamHandle* stream) {
  return told(cudaStreamDestroy(native(stream)));
}

int synchronize(DeviceStreamHandle* stream) {
  return told(cudaStreamSynchronize(native(stream)));
}

int synchronize_device(int device) {
  const cudaError_t code = cudaSetDevice(device);
  return told(code == cudaSuccess ? cudaDeviceSynchronize() : code);
}

int create_event(int device, DeviceEventHandle** event) {
  cudaError_t code = cudaSetDevice(device);
  cudaEvent_t made = nullptr;
  if (code == cudaSuccess) code = cudaEventCreateWithFlags(&made, cudaEventDefault);
  *event = reinterpret_cast<DeviceEventHandle*>(made);
  return told(code);
}

int destroy_event(DeviceEventHandle* event) {
  return told(cudaEventDestroy(native(event)));
}

int record(DeviceEventHandle* event, DeviceStreamHandle* stream) {
  return told(cudaEventRecord(native(event), native(stream)));
}

int wait(DeviceStreamHandle* stream, DeviceEventHandle* event) {
  return told(cudaStreamWaitEvent(native(stream), native(event), 0));
}

int finished(DeviceEventHandle* event, bool* done) {
  const cudaError_t code = cudaEventQuery(native(event));
  *done = code == cudaSuccess;
  return code == cudaErrorNotReady ? 0 : told(code);
}

int await(DeviceEventHandle* event) {
  return told(cudaEventSynchronize(native(event)));
}

int milliseconds(DeviceEventHandle* begin, DeviceEventHandle* end, float* result) {
  return told(cudaEventElapsedTime(result, native(begin), native(end)));
}

const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

DeviceFailure failure_of(int code) {
  switch (static_cast<cudaError_t>(code)) {
    case cudaErrorMemoryAllocation:
      return DeviceFailure::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemNotReady:
      return DeviceFailure::kNoDevice;
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorInitializationError:
      return DeviceFailure::kDriver;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
      return DeviceFailure::kNoKernelImage;
    default:
      return DeviceFailure::kOther;
  }
}

}  // namespace

const DeviceRuntime& nvidia_runtime() {
  static constexpr DeviceRuntime kRuntime = {
      .name = "CUDA",
      .count = count,
      .properties = properties,
      .use = use,
      .memory_info = memory_info,
      .allocate = allocate,
      .release = release,
      .allocate_pinned = allocate_pinned,
      .release_pinned = release_pinned,
      .copy = copy,
      .fill = fill,
      .create_stream = create_stream,
      .destroy_stream = destroy_stream,
      .synchronize = synchronize,
      .synchronize_device = synchronize_device,
      .create_event = create_event,
      .destroy_event = destroy_event,
      .record = record,
      .wait = wait,
      .finished = finished,
      .await = await,
      .milliseconds = milliseconds,
      .error_text = error_text,
      .failure_of = failure_of,
  };
  return kRuntime;
}

}  // namespace lockstep::core::cuda
