#pragma once

#include <string>

#include "comm/nccl/nccl_api.h"
#include "comm/nccl/nccl_options.h"

namespace lockstep::comm {

// NCCL as this process has it: loaded late, so that the program starts where there is none, and
// never unloaded.
struct NcclLibrary {
  const nccl::Api* api = nullptr;  // null: absent
  int version = 0;                 // 22809 for 2.28.9
  std::string path;                // what was loaded
  std::string why_absent;
};

// Looks once for libnccl.so.2 where the dynamic linker looks (LD_LIBRARY_PATH, its cache), then
// where it lay when this was built. One that lacks a function of 2.18, or is older, is absent too;
// what came later is null in the table where it is missing. Never throws.
const NcclLibrary& load_nccl();

// What these buffers need and this NCCL does not have ("NCCL 2.18.6 lacks ncclMemAlloc ..."), or
// nothing.
std::string nccl_lacks(const nccl::Api& api, NcclBuffers buffers);

// "2.28.9"
std::string nccl_version_text(int version);

}  // namespace lockstep::comm
