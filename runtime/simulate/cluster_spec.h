#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace lockstep::runtime {

// What one rank's device can do, as achieved in practice and not as printed on the box: rates of a
// training step's own kernels, e.g. from `lockstep bench`. Units: TFLOP/s = 1e12 floating-point
// operations a second, GB/s = 1e9 bytes a second, GiB = 2^30 bytes.
struct DeviceSpec {
  std::string name;
  double memory_gib = 0.0;
  double memory_gb_per_s = 0.0;     // read plus write, of one pass over large data
  double matmul_tflops[3] = {};     // fp32, bf16, fp16
  double attention_tflops[3] = {};  // likewise; the masked half of causal scores not counted
  double peak_tflops[3] = {};       // for MFU only
  double kernel_overhead_us = 0.0;  // a block's forward or backward costs at least this
};

// A way between ranks. Bandwidth: bytes that one rank (within a host) or one host (between hosts)
// receives in a second while it sends as many.
struct LinkSpec {
  double gb_per_s = 0.0;
  double latency_us = 0.0;  // of one message, software included
};

struct ClusterSpec {
  DeviceSpec device;
  int hosts = 1;
  int ranks_per_host = 1;
  LinkSpec within_host;
  LinkSpec between_hosts;  // unused with one host
  // Whether collectives can go on while the device computes (CUDA streams), and by how much that
  // slows the computing down meanwhile (0.19: arXiv 2507.03114). On CPUs the ranks' own cores move
  // the data: false. They do where parallel.overlap of the config lets them, too.
  bool overlap = true;
  double overlap_slowdown = 0.0;
  double decide_us_per_report = 0.0;  // of the step decision, on one core, per rank's report

  std::int64_t most_ranks() const { return static_cast<std::int64_t>(hosts) * ranks_per_host; }
};

// Index of a compute dtype in the arrays above.
int rate_index(core::DType dtype);

}  // namespace lockstep::runtime
