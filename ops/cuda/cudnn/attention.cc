#include "ops/cuda/cudnn/attention.h"

#include <fmt/format.h>

#include <chrono>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>

#include "ops/cuda/bodies.h"
#include "ops/cuda/carver.h"
#include "ops/cuda/cudnn/plan.h"
#include "ops/cuda/libraries.h"

namespace lockstep::ops::cuda {

using core::ConstTensorView;
using core::TensorView;

namespace {

// For one shape; the first engine that works always counts.
constexpr double kChoiceSeconds = 2.0;
constexpr int kTimedRuns = 3;

// One call, as a graph takes it.
struct Call {
  AttentionProblem problem;
  float scale;
  std::vector<std::pair<AttentionTensor, void*>> tensors;
};

void* address(const ConstTensorView& view) {
  return const_cast<void*>(view.raw());
}

Call forward_call(const AttentionSpec& spec, const ConstTensorView& q, const ConstTensorView& k,
                  const ConstTensorView& v, const ConstTensorView& out,
                  const ConstTensorView& lse) {
  Call call{};
  AttentionProblem& p = call.problem;
  p.sequences = spec.sequences;
  p.length = spec.length;
  p.heads = spec.heads;
  p.kv_heads = spec.kv_heads;
  p.width = spec.head_width;
  p.causal = spec.causal;
  p.dtype = q.dtype() == core::DType::kBF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
  p.strides.q = q.row_stride();
  p.strides.k = k.row_stride();
  p.strides.v = v.row_stride();
  p.strides.out = out.row_stride();
  p.strides.lse = lse.row_stride();
  call.scale = static_cast<float>(spec.scale);
  call.tensors = {{AttentionTensor::kQuery, address(q)},
                  {AttentionTensor::kKey, address(k)},
                  {AttentionTensor::kValue, address(v)},
                  {AttentionTensor::kOut, address(out)},
                  {AttentionTensor::kLse, address(lse)}};
  return call;
}

Call backward_call(Call call, const ConstTensorView& dout, const TensorView& dq,
                   const TensorView& dk, const TensorView& dv) {
  call.problem.backward = true;
  AttentionStrides& strides = call.problem.strides;
  strides.dout = dout.row_stride();
  strides.dq = dq.row_stride();
  strides.dk = dk.row_stride();
  strides.dv = dv.row_stride();
  call.tensors.insert(call.tensors.end(), {{AttentionTensor::kOutGradient, address(dout)},
                                           {AttentionTensor::kQueryGradient, address(dq)},
                                           {AttentionTensor::kKeyGradient, address(dk)},
                                           {AttentionTensor::kValueGradient, address(dv)}});
  return call;
}

// Why cuDNN is not even asked to serve a call; null: it is. `rows`: of the 16-bit views.
const char* why_not_asked(const AttentionSpec& spec, std::initializer_list<ConstTensorView> rows,
                          const ConstTensorView& lse) {
  if (spec.sequences == 0) return "own kernels: there is nothing to do";
  if (spec.dropout.active()) return "own kernels: there is dropout";
  if (spec.window > 0) return "own kernels: there is a window";
  if (spec.length < 2) return "own kernels: cuDNN has no gradients for a length of 1";
  if (spec.head_width % 8 != 0 || spec.head_width > 256) {
    return "own kernels: the width of a head is no multiple of 8 up to 256";
  }
  const auto aligned = [](const ConstTensorView& view) {
    return reinterpret_cast<std::uintptr_t>(view.raw()) % kCudnnAlignment == 0;
  };
  if (!aligned(lse)) return "own kernels: lse is not on 16 bytes";
  for (const ConstTensorView& view : rows) {
    if (core::size_of(view.dtype()) != 2) return "own kernels: it is not computed in 16 bits";
    if (!aligned(view) || view.row_stride() % 8 != 0)
      return "own kernels: rows are not on 16 bytes";
  }
  return nullptr;
}

// An open library on the device of a context.
class Session {
 public:
  explicit Session(const OpContext& context) : library_(CudnnLibrary::open()) {
    library_.check(library_.create(&handle_), "opening cuDNN");
    library_.check(
        library_.set_stream(handle_, reinterpret_cast<cudaStream_t>(context.stream().handle())),
        "giving cuDNN a stream");
  }
  ~Session() {
    if (handle_ != nullptr) library_.destroy(handle_);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const CudnnLibrary& library() const { return library_; }
  cudnnHandle_t handle() const { return handle_; }

  // Puts a call on the stream.
  cudnnStatus_t run(OpContext& context, const AttentionPlan& plan, const Call& call) const;

 private:
  CudnnLibrary library_;
  cudnnHandle_t handle_ = nullptr;
};

cudnnStatus_t Session::run(OpContext& context, const AttentionPlan& plan, const Call& call) const {
  const AttentionProblem& p = call.problem;
  const std::int64_t rows = p.backward ? p.sequences * p.heads * p.length : 0;
  Carver carver(context.scratch(Carver::bytes<float>(rows) + Carver::bytes<float>(rows * p.width) +
                                Carver::bytes<std::byte>(plan.workspace)));
  float scale = call.scale;
  float minus_infinity = -std::numeric_limits<float>::infinity();
  float one = 1.0F;
  std::vector<std::int64_t> ids;
  std::vector<void*> pointers;
  const auto bring = [&](AttentionTensor id, void* pointer) {
    ids.push_back(static_cast<std::int64_t>(id));
    pointers.push_back(pointer);
  };
  for (const auto& [id, pointer] : call.tensors)
    bring(id, pointer);
  bring(AttentionTensor::kScale, &scale);
  if (p.causal) bring(AttentionTensor::kMinusInfinity, &minus_infinity);
  if (p.backward) {
    bring(AttentionTensor::kOne, &one);
    bring(AttentionTensor::kRowSums, carver.take<float>(rows));
    bring(AttentionTensor::kQuerySums, carver.take<float>(rows * p.width));
  }
  CudnnDescriptor pack(library_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
  pack.set_pointers(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers);
  pack.set_pointers(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, {carver.take<std::byte>(plan.workspace)});
  pack.finalize("giving cuDNN the tensors of a call");
  return library_.execute(handle_, plan.plan.raw(), pack.raw());
}

// Seconds of one run. Repeating a call does no harm: it only writes what it does not read.
double measure(OpContext& context, const Session& session, const AttentionPlan& plan,
               const Call& call) {
  const auto run = [&] {
    session.library().check(session.run(context, plan, call), "timing attention");
  };
  run();  // loads the code
  core::DeviceEvent begin(context.device_ref());
  core::DeviceEvent end(context.device_ref());
  begin.record(context.stream());
  for (int i = 0; i < kTimedRuns; ++i)
    run();
  end.record(context.stream());
  context.stream().synchronize();
  return end.seconds_since(begin) / kTimedRuns;
}

// The fastest of the plans that cuDNN proposes. Throws CudnnRefusal when none works.
AttentionPlan choose_plan(OpContext& context, const Session& session, const Call& call) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::duration<double>(kChoiceSeconds);
  AttentionProposals proposals(session.library(), call.problem, {session.handle(), nullptr});
  std::optional<AttentionPlan> best;
  double best_seconds = 0.0;
  std::int64_t most_workspace = std::numeric_limits<std::int64_t>::max();
  std::string why = "cuDNN has no engine for this attention";
  while (proposals.more()) {
    if (best && (proposals.only_fallbacks() || Clock::now() > deadline)) break;
    try {
      AttentionPlan plan = proposals.next(most_workspace);
      const double seconds = measure(context, session, plan, call);
      if (best && seconds >= best_seconds) continue;
      if (!best) most_workspace = plan.workspace;  // so that a choice never costs memory
      best = std::move(plan);
      best_seconds = seconds;
    } catch (const CudnnRefusal& refusal) {
      why = refusal.what();
    }
  }
  if (!best) throw CudnnRefusal(why);
  return std::move(*best);
}

// What is kept for a context: cuDNN, where it is found, and what was chosen for each shape.
class CudnnAttention {
 public:
  explicit CudnnAttention(const OpContext& context) {
    try {
      session_ = std::make_unique<Session>(context);
    } catch (const CudnnRefusal& refusal) {
      why_absent_ = own_because(refusal);
    }
  }

  // Whether cuDNN has served the call.
  bool serve(OpContext& context, const Call& call) {
    if (session_ == nullptr) return leave(why_absent_.c_str());
    if (call.problem.backward && call.problem.length % 128 != 0 &&
        session_->library().get_version() <= kCudnnNeedsFullTiles) {
      return leave("own kernels: gradients of this cuDNN need lengths of a multiple of 128");
    }
    const Choice& choice = chosen(context, call);
    server_ = choice.server.c_str();
    if (!choice.plan) return false;
    const cudnnStatus_t status = session_->run(context, *choice.plan, call);
    if (status != CUDNN_STATUS_SUCCESS) {
      throw core::Error(core::ErrorKind::kInternal, session_->library().explain(status, server_));
    }
    return true;
  }
  // The own kernels serve: always false. The text must outlive this.
  bool leave(const char* why) {
    server_ = why;
    return false;
  }

  const char* server() const { return server_; }

 private:
  struct Choice {
    std::optional<AttentionPlan> plan;  // none: cuDNN does not serve the shape
    std::string server;
  };

  static std::string own_because(const CudnnRefusal& refusal) {
    return fmt::format("own kernels: {}", refusal.what());
  }

  const Choice& chosen(OpContext& context, const Call& call) {
    const auto known = choices_.find(call.problem);
    if (known != choices_.end()) return known->second;
    Choice choice;
    try {
      choice.plan = choose_plan(context, *session_, call);
      choice.server = fmt::format("cuDNN {}, engine {}", session_->library().version(),
                                  choice.plan->config.engine);
    } catch (const CudnnRefusal& refusal) {
      choice.server = own_because(refusal);
    }
    return choices_.emplace(call.problem, std::move(choice)).first->second;
  }

  std::unique_ptr<Session> session_;  // outlives the plans
  std::string why_absent_;
  std::map<AttentionProblem, Choice> choices_;
  const char* server_ = "nothing yet";
};

CudnnAttention& attention_of(OpContext& context) {
  Kept& kept = libraries_of(context).cudnn;
  if (kept == nullptr) kept.reset(new CudnnAttention(context));
  return *static_cast<CudnnAttention*>(kept.get());
}

}  // namespace

void cudnn_attention_forward(OpContext& context, const AttentionSpec& spec, ConstTensorView q,
                             ConstTensorView k, ConstTensorView v, TensorView out, TensorView lse) {
  const auto served = [&] {
    if (context.determinism() != Determinism::kNone) return false;
    CudnnAttention& cudnn = attention_of(context);
    const char* why = why_not_asked(spec, {q, k, v, out}, lse);
    return why != nullptr ? cudnn.leave(why)
                          : cudnn.serve(context, forward_call(spec, q, k, v, out, lse));
  };
  if (!served()) flash_attention_forward(context, spec, q, k, v, out, lse);
}

void cudnn_attention_backward(OpContext& context, const AttentionSpec& spec, ConstTensorView dout,
                              ConstTensorView q, ConstTensorView k, ConstTensorView v,
                              ConstTensorView out, ConstTensorView lse, TensorView dq,
                              TensorView dk, TensorView dv) {
  const auto served = [&] {
    if (context.determinism() != Determinism::kNone) return false;
    CudnnAttention& cudnn = attention_of(context);
    const char* why = why_not_asked(spec, {dout, q, k, v, out, dq, dk, dv}, lse);
    if (why != nullptr) return cudnn.leave(why);
    return cudnn.serve(context,
                       backward_call(forward_call(spec, q, k, v, out, lse), dout, dq, dk, dv));
  };
  if (!served()) flash_attention_backward(context, spec, dout, q, k, v, out, lse, dq, dk, dv);
}

const char* cudnn_attention_server(const OpContext& context) {
  if (context.determinism() != Determinism::kNone) return "own kernels: the same bits each time";
  const Kept& kept = libraries_of(context).cudnn;
  return kept == nullptr ? "nothing yet" : static_cast<CudnnAttention*>(kept.get())->server();
}

void close_cudnn_attention(void* kept) noexcept {
  delete static_cast<CudnnAttention*>(kept);
}

}  // namespace lockstep::ops::cuda
