#include "comm/nccl/nccl_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <vector>

namespace lockstep::comm {

namespace {

constexpr const char* kFileName = "libnccl.so.2";

// The library's function of this name, or a note that it has none.
template <typename Function>
void find(void* library, const char* name, Function& function, std::string& missing) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) missing += std::string(missing.empty() ? "" : ", ") + name;
}

std::string fill(void* library, nccl::Api& api) {
  std::string missing;
  find(library, "ncclGetVersion", api.get_version, missing);
  find(library, "ncclGetErrorString", api.get_error_string, missing);
  find(library, "ncclGetLastError", api.get_last_error, missing);
  find(library, "ncclGetUniqueId", api.get_unique_id, missing);
  find(library, "ncclCommInitRankConfig", api.comm_init_rank_config, missing);
  find(library, "ncclCommFinalize", api.comm_finalize, missing);
  find(library, "ncclCommDestroy", api.comm_destroy, missing);
  find(library, "ncclCommAbort", api.comm_abort, missing);
  find(library, "ncclCommGetAsyncError", api.comm_get_async_error, missing);
  find(library, "ncclAllReduce", api.all_reduce, missing);
  find(library, "ncclReduceScatter", api.reduce_scatter, missing);
  find(library, "ncclAllGather", api.all_gather, missing);
  find(library, "ncclBroadcast", api.broadcast, missing);
  find(library, "ncclSend", api.send, missing);
  find(library, "ncclRecv", api.receive, missing);
  find(library, "ncclGroupStart", api.group_start, missing);
  find(library, "ncclGroupEnd", api.group_end, missing);
  std::string optional;  // nccl_lacks() tells
  find(library, "ncclMemAlloc", api.mem_alloc, optional);
  find(library, "ncclMemFree", api.mem_free, optional);
  find(library, "ncclCommRegister", api.comm_register, optional);
  find(library, "ncclCommDeregister", api.comm_deregister, optional);
  find(library, "ncclCommWindowRegister", api.comm_window_register, optional);
  find(library, "ncclCommWindowDeregister", api.comm_window_deregister, optional);
  return missing;
}

NcclLibrary look_for_nccl() {
  std::vector<std::string> places = {kFileName};
  if (*LOCKSTEP_NCCL_LIBRARY != '\0') places.emplace_back(LOCKSTEP_NCCL_LIBRARY);
  NcclLibrary found;
  for (const std::string& place : places) {
    void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* why = dlerror();
      found.why_absent += (found.why_absent.empty() ? "" : "; ") + std::string(why);
      continue;
    }
    static nccl::Api api;
    const std::string missing = fill(library, api);
    found.path = place;
    if (!missing.empty()) {
      found.why_absent = fmt::format("{} lacks {}", place, missing);
    } else if (api.get_version(&found.version) != nccl::kSuccess ||
               found.version < nccl::kOldestVersion) {
      found.why_absent = fmt::format("{} is NCCL {}, 2.18 or newer is needed", place,
                                     nccl_version_text(found.version));
    } else {
      found.why_absent.clear();
      found.api = &api;
    }
    return found;
  }
  found.why_absent += "; install NCCL or name its folder in LD_LIBRARY_PATH";
  return found;
}

}  // namespace

const NcclLibrary& load_nccl() {
  static const NcclLibrary library = look_for_nccl();
  return library;
}

std::string nccl_lacks(const nccl::Api& api, NcclBuffers buffers) {
  if (buffers == NcclBuffers::kPlain) return "";
  int version = 0;
  api.get_version(&version);
  const auto lacks = [&](const char* what, const char* since) {
    return fmt::format("NCCL {} lacks {}, which came with {}", nccl_version_text(version), what,
                       since);
  };
  if (api.mem_alloc == nullptr || api.mem_free == nullptr) return lacks("ncclMemAlloc", "2.19");
  if (api.comm_register == nullptr || api.comm_deregister == nullptr) {
    return lacks("ncclCommRegister", "2.19");
  }
  if (buffers == NcclBuffers::kRegistered) return "";
  if (api.comm_window_register == nullptr || api.comm_window_deregister == nullptr) {
    return lacks("ncclCommWindowRegister", "2.27");
  }
  if (version < nccl::kCopyEngineVersion) return lacks("all-gathers by copy engines", "2.28");
  return "";
}

std::string_view name_of(NcclBuffers buffers) {
  switch (buffers) {
    case NcclBuffers::kPlain:
      return "plain";
    case NcclBuffers::kRegistered:
      return "registered";
    case NcclBuffers::kSymmetric:
      return "symmetric";
  }
  return "?";
}

std::string nccl_version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace lockstep::comm
