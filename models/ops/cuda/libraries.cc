#include "models/ops/cuda/libraries.h"

#include "models/ops/cuda/cublaslt_matmul.h"
#include "models/ops/cuda/cudnn_attention.h"

namespace lockstep::models::ops::cuda {

void* open_libraries(OpContext& context) {
  return new Libraries{Kept(open_cublaslt(context), close_cublaslt),
                       Kept(nullptr, close_cudnn_attention)};
}

void close_libraries(void* libraries) noexcept {
  delete static_cast<Libraries*>(libraries);
}

}  // namespace lockstep::models::ops::cuda
