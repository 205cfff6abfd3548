#include "ops/cpu/matmul_cache.h"

#include <omp.h>

#include <map>
#include <oneapi/dnnl/dnnl.hpp>

#include "core/check.h"

namespace lockstep::ops {

using core::DType;
using dnnl::memory;

struct GemmKernel {
  dnnl::engine engine;
  dnnl::matmul primitive;
  memory::desc a, b, bias, c, scratchpad;
};

namespace {

memory::data_type dnnl_type(DType dtype) {
  LOCKSTEP_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "dtype {} of a oneDNN product",
                 core::name_of(dtype));
  return dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
}

memory::desc matrix_desc(std::int64_t rows, std::int64_t cols, std::int64_t stride, bool transpose,
                         DType dtype) {
  const memory::dims strides = transpose ? memory::dims{1, stride} : memory::dims{stride, 1};
  return {{rows, cols}, dnnl_type(dtype), strides};
}

// The matrices of a product as oneDNN knows them.
struct Description {
  explicit Description(const GemmShape& s)
      : a(matrix_desc(s.m, s.k, s.stride_a, s.transpose_a, s.input)),
        b(matrix_desc(s.k, s.n, s.stride_b, s.transpose_b, s.input)),
        c(matrix_desc(s.m, s.n, s.stride_c, false, s.output)) {
    if (s.bias) bias = matrix_desc(1, s.n, s.n, false, s.input);
  }

  memory::desc a, b, bias, c;
};

// oneDNN 3 has no operation descriptors any more. The one place that knows its version.
dnnl::matmul::primitive_desc primitive_desc(const dnnl::engine& engine, const Description& d,
                                            bool bias, const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  if (bias) return {engine, d.a, d.b, d.bias, d.c, attributes};
  return {engine, d.a, d.b, d.c, attributes};
#else
  const auto operation =
      bias ? dnnl::matmul::desc(d.a, d.b, d.bias, d.c) : dnnl::matmul::desc(d.a, d.b, d.c);
  return {operation, attributes, engine};
#endif
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const GemmShape& s,
                                      const Description& d) {
  dnnl::primitive_attr attributes;
  // The library's own scratchpad belongs to the thread that made the primitive.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.add) {
    dnnl::post_ops post_ops;
    post_ops.append_sum(1.0F);
    attributes.set_post_ops(post_ops);
  }
  const SingleThreadedOneDnn single_threaded;
  try {
    return primitive_desc(engine, d, s.bias, attributes);
  } catch (const dnnl::error& e) {
    throw core::Error(core::ErrorKind::kInternal,
                      fmt::format("oneDNN has no product [{}, {}, {}] of {} to {}: {}", s.m, s.n,
                                  s.k, core::name_of(s.input), core::name_of(s.output), e.what()));
  }
}

GemmKernel make_kernel(const dnnl::engine& engine, const GemmShape& shape) {
  const Description d(shape);
  const dnnl::matmul::primitive_desc primitive = describe(engine, shape, d);
  return {engine, dnnl::matmul(primitive), d.a, d.b, d.bias, d.c, primitive.scratchpad_desc()};
}

}  // namespace

struct MatmulCache::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::map<GemmShape, GemmKernel> kernels;
};

MatmulCache::MatmulCache() : state_(std::make_unique<State>()) {}
MatmulCache::~MatmulCache() = default;

const GemmKernel& MatmulCache::kernel(const GemmShape& shape) {
  const auto found = state_->kernels.find(shape);
  if (found != state_->kernels.end()) return found->second;
  const SingleThreadedOneDnn single_threaded;
  return state_->kernels.emplace(shape, make_kernel(state_->engine, shape)).first->second;
}

void MatmulCache::execute(const GemmKernel& kernel, const GemmArguments& arguments) {
  const auto wrap = [&](const memory::desc& desc, const void* data) {
    return memory(desc, kernel.engine, const_cast<void*>(data));
  };
  std::unordered_map<int, memory> bound = {
      {DNNL_ARG_SRC, wrap(kernel.a, arguments.a)},
      {DNNL_ARG_WEIGHTS, wrap(kernel.b, arguments.b)},
      {DNNL_ARG_DST, wrap(kernel.c, arguments.c)},
      {DNNL_ARG_SCRATCHPAD, wrap(kernel.scratchpad, arguments.scratchpad)}};
  if (arguments.bias != nullptr) bound.emplace(DNNL_ARG_BIAS, wrap(kernel.bias, arguments.bias));
  dnnl::stream stream(kernel.engine);
  try {
    kernel.primitive.execute(stream, bound);
    stream.wait();
  } catch (const dnnl::error& e) {
    throw core::Error(core::ErrorKind::kInternal, fmt::format("oneDNN product: {}", e.what()));
  }
}

std::size_t MatmulCache::scratchpad_bytes(const GemmKernel& kernel) {
  return kernel.scratchpad.get_size();
}

std::size_t MatmulCache::scratchpad_bytes(const GemmShape& shape) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return describe(engine, shape, Description(shape)).scratchpad_desc().get_size();
}

bool MatmulCache::native_bf16() {
  // Each value holds the bits of the instruction sets that it includes; newer versions have more.
  const auto has = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto bf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (has & bf16) == bf16;
}

SingleThreadedOneDnn::SingleThreadedOneDnn() : previous_(omp_get_max_threads()) {
  omp_set_num_threads(1);
}

SingleThreadedOneDnn::~SingleThreadedOneDnn() {
  omp_set_num_threads(previous_);
}

}  // namespace lockstep::ops
