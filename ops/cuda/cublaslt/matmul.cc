#include "ops/cuda/cublaslt/matmul.h"

#include <algorithm>

#include "ops/cuda/bodies.h"
#include "ops/cuda/cublaslt/library.h"
#include "ops/cuda/libraries.h"
#include "ops/fused_matmul_steps.h"

namespace lockstep::ops::cuda {

using core::ConstTensorView;
using core::TensorView;

namespace {

CublasLt& library_of(const OpContext& context) {
  return *static_cast<CublasLt*>(libraries_of(context).cublaslt.get());
}

std::int64_t stride_of(const ConstTensorView& view) {
  return std::max(view.row_stride(), view.cols());
}

// A product as it is asked for: the views of matmul(), what belongs to the epilogue, and both forms
// that the library takes.
struct Request {
  ProductKey key;
  ProductOperands operands;

  Request(ConstTensorView a, Transpose transpose_a, ConstTensorView b, Transpose transpose_b,
          TensorView out) {
    key.m = out.rows();
    key.n = out.cols();
    key.k = transpose_a == Transpose::kYes ? a.rows() : a.cols();
    key.stride_a = stride_of(a);
    key.stride_b = stride_of(b);
    key.stride_out = stride_of(out);
    key.input = a.dtype();
    key.output = out.dtype();
    key.transpose_a = transpose_a == Transpose::kYes;
    key.transpose_b = transpose_b == Transpose::kYes;
    key.align_a = alignment_of(a.raw());
    key.align_b = alignment_of(b.raw());
    key.align_out = alignment_of(out.raw());
    key.align_aux = kMostAlignment;
    key.align_vector = kMostAlignment;
    operands.a = a.raw();
    operands.b = b.raw();
    operands.out = out.raw();
  }

  // `vector` is written by some epilogues, read by others, and so is `aux`.
  void add(Epilogue epilogue, ConstTensorView vector, ConstTensorView aux) {
    key.epilogue = epilogue;
    if (!vector.empty()) {
      operands.vector = const_cast<void*>(vector.raw());
      key.align_vector = alignment_of(vector.raw());
    }
    if (!aux.empty()) {
      operands.aux = const_cast<void*>(aux.raw());
      key.align_aux = alignment_of(aux.raw());
      key.stride_aux = stride_of(aux);
    }
  }
};

// What cuBLASLt asks of the second matrix of an epilogue.
bool fits_as_aux(const ConstTensorView& view) {
  return stride_of(view) % 8 == 0 && alignment_of(view.raw()) >= 16;
}

// Whether an epilogue of cuBLASLt computes the activation as we do: GELU by tanh, whose tanh there
// is good to some 1e-5, which only 16-bit results do not show.
bool has_epilogue(ActivationFunction f, const ConstTensorView& pre) {
  return f == ActivationFunction::kGeluTanh && pre.dtype() != core::DType::kF32 && fits_as_aux(pre);
}

}  // namespace

void cublaslt_matmul(OpContext& context, ConstTensorView a, Transpose transpose_a,
                     ConstTensorView b, Transpose transpose_b, TensorView out,
                     ConstTensorView bias) {
  Request request(a, transpose_a, b, transpose_b, out);
  if (!bias.empty()) request.add(Epilogue::kBias, bias, {});
  const bool done =
      request.key.k > 0 && library_of(context).run(context, request.key, request.operands, {});
  // Nothing to sum, or no algorithm: some alignments below 16 bytes, a bias of 16 bits on an fp32
  // result.
  if (!done) cuda::matmul(context, a, transpose_a, b, transpose_b, out, bias);
}

void cublaslt_matmul_activation_forward(OpContext& context, ActivationFunction f, ConstTensorView x,
                                        ConstTensorView weight, ConstTensorView bias,
                                        TensorView pre, TensorView y) {
  const auto steps = [&] {
    in_steps::matmul_activation_forward(context, f, x, weight, bias, pre, y);
  };
  if (!has_epilogue(f, pre) || pre.elements() == 0 || x.elements() == 0) return steps();
  Request request(x, Transpose::kNo, weight, Transpose::kYes, y);
  request.add(bias.empty() ? Epilogue::kGelu : Epilogue::kGeluBias, bias, pre);
  if (!library_of(context).run(context, request.key, request.operands, steps)) steps();
}

void cublaslt_matmul_activation_backward(OpContext& context, ActivationFunction f,
                                         ConstTensorView dy, ConstTensorView weight,
                                         ConstTensorView pre, TensorView dpre, TensorView dbias) {
  // Where the sums do not belong in the call of the product, the slope may all the same.
  const auto steps = [&] {
    if (dbias.empty() || !has_epilogue(f, pre))
      return in_steps::matmul_activation_backward(context, f, dy, weight, pre, dpre, dbias);
    cublaslt_matmul_activation_backward(context, f, dy, weight, pre, dpre, {});
    cuda::column_sum(context, dpre, dbias);
  };
  if (!has_epilogue(f, pre) || pre.elements() == 0 || dy.elements() == 0) return steps();
  Request request(dy, Transpose::kNo, weight, Transpose::kNo, dpre);
  request.add(dbias.empty() ? Epilogue::kGeluGradient : Epilogue::kGeluBiasGradient, dbias, pre);
  if (!library_of(context).run(context, request.key, request.operands, steps)) steps();
}

void cublaslt_matmul_weight_gradient(OpContext& context, ConstTensorView dy, ConstTensorView x,
                                     TensorView dweight, TensorView dbias) {
  const auto steps = [&] { in_steps::matmul_weight_gradient(context, dy, x, dweight, dbias); };
  if (dbias.empty() || dweight.elements() == 0 || dy.elements() == 0) return steps();
  Request request(dy, Transpose::kYes, x, Transpose::kNo, dweight);
  request.add(Epilogue::kBiasGradient, dbias, {});
  if (!library_of(context).run(context, request.key, request.operands, steps)) steps();
}

void* open_cublaslt(OpContext& context) {
  return new CublasLt(context);
}

void close_cublaslt(void* library) noexcept {
  delete static_cast<CublasLt*>(library);
}

std::string describe_cublaslt_choices(const void* library) {
  return static_cast<const CublasLt*>(library)->describe();
}

}  // namespace lockstep::ops::cuda
