#pragma once

#include <memory>
#include <string>

#include "ops/op_context.h"

namespace lockstep::ops::cuda {

// What a library keeps for one context, of a type that only its own source knows.
using Kept = std::unique_ptr<void, void (*)(void*) noexcept>;

// What OpContext::libraries() is in the CUDA module.
struct Libraries {
  Kept cublaslt;
  Kept cudnn;  // opened with the first attention that may use it
};

inline Libraries& libraries_of(const OpContext& context) {
  return *static_cast<Libraries*>(context.libraries());
}

// OpBodies::open_libraries, close_libraries and describe_choices.
void* open_libraries(OpContext& context);
void close_libraries(void* libraries) noexcept;
std::string describe_choices(void* libraries);

}  // namespace lockstep::ops::cuda
