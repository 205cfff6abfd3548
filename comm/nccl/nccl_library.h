#pragma once

#include <string>

#include "comm/nccl/nccl_api.h"

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
// where it lay when this was built. One that lacks a function, or is older than 2.18, is absent
// too. Never throws.
const NcclLibrary& load_nccl();

// "2.28.9"
std::string nccl_version_text(int version);

}  // namespace lockstep::comm
