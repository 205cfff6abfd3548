#include "ops/cuda/libraries.h"

#include "ops/cuda/cublaslt/matmul.h"
#include "ops/cuda/cudnn/attention.h"

namespace lockstep::ops::cuda {

void* open_libraries(OpContext& context) {
  return new Libraries{Kept(open_cublaslt(context), close_cublaslt),
                       Kept(nullptr, close_cudnn_attention)};
}

void close_libraries(void* libraries) noexcept {
  delete static_cast<Libraries*>(libraries);
}

std::string describe_choices(void* libraries) {
  return describe_cublaslt_choices(static_cast<const Libraries*>(libraries)->cublaslt.get());
}

}  // namespace lockstep::ops::cuda
