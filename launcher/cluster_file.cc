#include "launcher/cluster_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "runtime/config/strict_map.h"

namespace lockstep::launcher {

namespace {

using runtime::Problems;
using runtime::StrictMap;

constexpr double kSmallest = 1e-9;
constexpr double kLargest = 1e9;

void read_required(StrictMap& map, const std::string& name, double& target) {
  map.read(name, target, kSmallest, kLargest);
  if (!map.has(name)) map.problem(name, "is missing; give a number above 0");
}

void read_rates(StrictMap& device, const std::string& name, double (&rates)[3],
                Problems& problems) {
  StrictMap map(device.at(name), "device." + name, {"fp32", "bf16", "fp16"}, problems);
  map.read("fp32", rates[0], kSmallest, kLargest);
  map.read("bf16", rates[1], kSmallest, kLargest);
  map.read("fp16", rates[2], kSmallest, kLargest);
}

void read_device(StrictMap& root, runtime::DeviceSpec& spec, Problems& problems) {
  StrictMap map(root.at("device"), "device",
                {"name", "memory_gib", "memory_gb_per_s", "matmul_tflops", "attention_tflops",
                 "peak_tflops", "kernel_overhead_us"},
                problems);
  spec.name = "unnamed";
  map.read("name", spec.name);
  read_required(map, "memory_gib", spec.memory_gib);
  read_required(map, "memory_gb_per_s", spec.memory_gb_per_s);
  if (!map.has("matmul_tflops")) map.problem("matmul_tflops", "is missing; give fp32, bf16, fp16");
  read_rates(map, "matmul_tflops", spec.matmul_tflops, problems);
  if (!map.has("attention_tflops")) {
    map.problem("attention_tflops", "is missing; give fp32, bf16, fp16");
  }
  read_rates(map, "attention_tflops", spec.attention_tflops, problems);
  read_rates(map, "peak_tflops", spec.peak_tflops, problems);
  map.read("kernel_overhead_us", spec.kernel_overhead_us, 0.0, kLargest);
}

void read_link(StrictMap& network, const std::string& name, runtime::LinkSpec& link,
               Problems& problems) {
  StrictMap map(network.at(name), "network." + name, {"gb_per_s", "latency_us"}, problems);
  read_required(map, "gb_per_s", link.gb_per_s);
  map.read("latency_us", link.latency_us, 0.0, kLargest);
}

void read_network(StrictMap& root, runtime::ClusterSpec& spec, Problems& problems) {
  constexpr std::int32_t kMost = 100'000;
  StrictMap map(root.at("network"), "network",
                {"hosts", "ranks_per_host", "within_host", "between_hosts", "overlap",
                 "overlap_slowdown", "decide_us_per_report"},
                problems);
  map.read("hosts", spec.hosts, 1, kMost);
  map.read("ranks_per_host", spec.ranks_per_host, 1, kMost);
  if (spec.ranks_per_host > 1) read_link(map, "within_host", spec.within_host, problems);
  if (spec.hosts > 1) read_link(map, "between_hosts", spec.between_hosts, problems);
  // Every hop of a ring costs at least something; one rank a host has no way within it.
  if (spec.ranks_per_host == 1) spec.within_host = spec.between_hosts;
  std::string overlap = "true";
  map.read_choice("overlap", overlap, {"true", "false"});
  spec.overlap = overlap == "true";
  map.read("overlap_slowdown", spec.overlap_slowdown, 0.0, 10.0);
  if (!spec.overlap && spec.overlap_slowdown > 0.0) {
    map.problem("overlap_slowdown", "has no effect with overlap: false; leave it out");
  }
  map.read("decide_us_per_report", spec.decide_us_per_report, 0.0, kLargest);
}

}  // namespace

runtime::ClusterSpec parse_cluster(std::string_view text, const std::string& source) {
  Problems problems;
  StrictMap root(runtime::parse_yaml(text, source), "", {"device", "network"}, problems);
  runtime::ClusterSpec spec;
  read_device(root, spec.device, problems);
  read_network(root, spec, problems);
  problems.throw_if_any();
  return spec;
}

runtime::ClusterSpec load_cluster(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream || std::filesystem::is_directory(file)) {
    throw core::Error(core::ErrorKind::kConfig, file.string() +
                                                    ": cannot read the description of a cluster: " +
                                                    std::strerror(stream ? EISDIR : errno));
  }
  return parse_cluster(text.str(), file.string());
}

}  // namespace lockstep::launcher
