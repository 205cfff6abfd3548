#include "launcher/commands/version_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "runtime/version/build_info.h"
#include "runtime/version/gpu_info.h"

namespace lockstep::launcher {
namespace {

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words)
    text += (text.empty() ? "" : " ") + word;
  return text.empty() ? "none beyond the architecture's base" : text;
}

void print_table(const runtime::BuildInfo& info, const runtime::GpuInfo& gpu, std::ostream& out) {
  const auto line = [&out](const std::string& name, const std::string& value) {
    out << fmt::format("{:<17}{}\n", name, value);
  };
  line("lockstep", info.version);
  line("commit", info.commit);
  line("compiler", info.compiler);
  line("build type", info.build_type);
  line("flags", info.flags);
  line("instruction sets", join(info.instruction_sets));
  for (const auto& [name, version] : info.libraries)
    line(name, version);
  line("CUDA", gpu.cuda);
  line("cuBLASLt", gpu.cublaslt);
  line("cuDNN", gpu.cudnn);
  line("NCCL", gpu.nccl);
  for (const std::string& device : gpu.devices)
    line("device", device);
}

void print_json(const runtime::BuildInfo& info, const runtime::GpuInfo& gpu, std::ostream& out) {
  nlohmann::ordered_json libraries;
  for (const auto& [name, version] : info.libraries)
    libraries[name] = version;
  const nlohmann::ordered_json json = {
      {"version", info.version},   {"commit", info.commit},
      {"compiler", info.compiler}, {"build_type", info.build_type},
      {"flags", info.flags},       {"instruction_sets", info.instruction_sets},
      {"libraries", libraries},    {"cuda", gpu.cuda},
      {"cublaslt", gpu.cublaslt},  {"cudnn", gpu.cudnn},
      {"nccl", gpu.nccl},          {"devices", gpu.devices},
  };
  out << json.dump() << "\n";
}

}  // namespace

void add_version_command(CLI::App& app, CommandContext& context) {
  CLI::App* command = app.add_subcommand("version", "show what this binary is and was built with");
  auto format = std::make_shared<OutputFormat>(OutputFormat::kTable);
  add_output_option(*command, *format);
  set_action(*command, context, [format, &context] {
    const runtime::BuildInfo info = runtime::build_info();
    const runtime::GpuInfo gpu = runtime::gpu_info();
    *format == OutputFormat::kJson ? print_json(info, gpu, context.out)
                                   : print_table(info, gpu, context.out);
    return 0;
  });
}

}  // namespace lockstep::launcher
