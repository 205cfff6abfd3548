#include "core/cuda_module.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "core/build_config.h"
#include "core/cuda_build.h"
#include "core/error.h"

namespace lockstep::core {

namespace {

CudaModule absent(std::string why) {
  return {nullptr, std::move(why)};
}

CudaModule load_file(const std::filesystem::path& file) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) return absent(fmt::format("it cannot be loaded: {}", dlerror()));
  void* entry = dlsym(handle, cuda::kModuleEntry);
  if (entry == nullptr) {
    return absent(fmt::format("{} has no function {}", file.string(), cuda::kModuleEntry));
  }
  const cuda::ModuleDescription* module = reinterpret_cast<cuda::ModuleEntry>(entry)();
  if (std::string_view(module->version) != kVersion ||
      module->runtime_bytes != sizeof(DeviceRuntime)) {
    return absent(
        fmt::format("{} is of another build (version {}, this program is {}); build both "
                    "together",
                    file.string(), module->version, kVersion));
  }
  return {module, ""};
}

}  // namespace

const DeviceRuntime& CudaModule::runtime() const {
  if (description == nullptr) {
    throw Error(ErrorKind::kConfig, fmt::format("CUDA is absent: {}", why_absent));
  }
  return *description->runtime;
}

CudaModule load_cuda_module(const std::vector<std::filesystem::path>& folders) {
  if (!kWhyNoCuda.empty()) {
    return absent(
        fmt::format("{}; with NVIDIA's CUDA toolkit, build with -DLOCKSTEP_CUDA=ON", kWhyNoCuda));
  }
  std::string looked_in;
  for (const std::filesystem::path& folder : folders) {
    std::error_code ignored;
    const std::filesystem::path file = (folder / cuda::kModuleFile).lexically_normal();
    if (std::filesystem::exists(file, ignored)) return load_file(file);
    looked_in += (looked_in.empty() ? "" : " or ") + folder.lexically_normal().string();
  }
  return absent(fmt::format("{} is not in {}", cuda::kModuleFile, looked_in));
}

CudaModule load_cuda_module() {
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::filesystem::path folder = program.parent_path();
  return load_cuda_module({folder.parent_path() / "lib", folder});
}

std::vector<std::string> describe_devices(const DeviceRuntime& runtime) {
  const std::string why = why_no_device(runtime);
  if (!why.empty()) return {"none: " + why};
  int devices = 0;
  runtime.count(&devices);
  std::vector<std::string> lines;
  for (int d = 0; d < devices; ++d) {
    DeviceProperties p;
    int code = runtime.properties(d, &p);
    if (code == 0) code = runtime.use(d);
    if (code != 0) {
      lines.push_back(
          fmt::format("cuda:{}  {} cannot be used: {}", d, p.name, runtime.error_text(code)));
      continue;
    }
    lines.push_back(
        fmt::format("cuda:{}  {}, compute capability {}.{}, {} multiprocessors, {:.1f} "
                    "GiB",
                    d, p.name, p.major, p.minor, p.multiprocessors,
                    static_cast<double>(p.total_memory) / 1073741824.0));
  }
  return lines;
}

}  // namespace lockstep::core
