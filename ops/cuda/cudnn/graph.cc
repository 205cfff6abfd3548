#include "ops/cuda/cudnn/graph.h"

namespace lockstep::ops::cuda {

namespace {

using Tensor = cudnnBackendDescriptor_t;
using Four = std::vector<std::int64_t>;  // batch, head, row, column

constexpr cudnnDataType_t kFloat = CUDNN_DATA_FLOAT;

class Builder {
 public:
  Builder(const CudnnLibrary& library, const AttentionProblem& problem)
      : library_(library), p_(problem) {}

  AttentionGraph finish(cudnnHandle_t handle) && {
    CudnnDescriptor graph(library_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations_);
    if (handle != nullptr) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle);
    graph.finalize("describing attention");
    AttentionGraph result;
    result.parts = std::move(parts_);
    result.graph.push_back(std::move(graph));
    return result;
  }

  void forward();
  void backward();

 private:
  // Tensors.

  Tensor tensor(std::int64_t id, const Four& sizes, const Four& strides, cudnnDataType_t dtype,
                bool is_virtual, bool by_value = false) {
    CudnnDescriptor& made = part(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    made.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    made.set(CUDNN_ATTR_TENSOR_DATA_TYPE, dtype);
    made.set(CUDNN_ATTR_TENSOR_DIMENSIONS, sizes);
    made.set(CUDNN_ATTR_TENSOR_STRIDES, strides);
    made.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, by_value ? std::int64_t{4} : kCudnnAlignment);
    made.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual);
    made.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, by_value);
    return made.finalize("describing a tensor").raw();
  }
  Tensor given(AttentionTensor id, const Four& sizes, const Four& strides, cudnnDataType_t dtype) {
    return tensor(static_cast<std::int64_t>(id), sizes, strides, dtype, false);
  }
  Tensor scalar(AttentionTensor id) {
    return tensor(static_cast<std::int64_t>(id), {1, 1, 1, 1}, {1, 1, 1, 1}, kFloat, false, true);
  }
  // One between two operations, which never reaches memory.
  Tensor between(const Four& sizes, const Four& strides, cudnnDataType_t dtype) {
    return tensor(next_id_++, sizes, strides, dtype, true);
  }

  Tensor rows(AttentionTensor id, std::int64_t heads, std::int64_t stride) {
    return given(id, {p_.sequences, heads, p_.length, p_.width},
                 {p_.length * stride, p_.width, stride, 1}, p_.dtype);
  }
  // The same, each head transposed.
  Tensor columns(AttentionTensor id, std::int64_t heads, std::int64_t stride) {
    return given(id, {p_.sequences, heads, p_.width, p_.length},
                 {p_.length * stride, p_.width, 1, stride}, p_.dtype);
  }
  Tensor lse() {
    const std::int64_t stride = p_.strides.lse;
    return given(AttentionTensor::kLse, row_sizes(), {p_.heads * stride, stride, 1, 1}, kFloat);
  }

  Four score_sizes() const { return {p_.sequences, p_.heads, p_.length, p_.length}; }
  Four score_strides() const {
    return {p_.heads * p_.length * p_.length, p_.length * p_.length, p_.length, 1};
  }
  Tensor scores(cudnnDataType_t dtype = kFloat) {
    return between(score_sizes(), score_strides(), dtype);
  }
  Tensor transposed_scores() {
    return between(score_sizes(),
                   {p_.heads * p_.length * p_.length, p_.length * p_.length, 1, p_.length},
                   p_.dtype);
  }
  Four row_sizes() const { return {p_.sequences, p_.heads, p_.length, 1}; }
  Four row_strides() const { return {p_.heads * p_.length, p_.length, 1, 1}; }
  Tensor per_row() { return between(row_sizes(), row_strides(), kFloat); }
  Four head_sizes() const { return {p_.sequences, p_.heads, p_.length, p_.width}; }
  Four head_strides() const {
    return {p_.heads * p_.length * p_.width, p_.length * p_.width, p_.width, 1};
  }

  // Operations; each returns its result.

  Tensor pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor to,
                   cudnnDataType_t compute = kFloat) {
    CudnnDescriptor& what = part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    what.set(CUDNN_ATTR_POINTWISE_MODE, mode).set(CUDNN_ATTR_POINTWISE_MATH_PREC, compute);
    what.finalize("describing a pointwise operation");
    return apply(what, x, b, nullptr, to);
  }
  // The index along an axis of `like`.
  Tensor index(Tensor like, std::int64_t axis) {
    CudnnDescriptor& what = part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    what.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_GEN_INDEX);
    what.set(CUDNN_ATTR_POINTWISE_MATH_PREC, kFloat).set(CUDNN_ATTR_POINTWISE_AXIS, axis);
    what.finalize("describing an index");
    return apply(what, like, nullptr, nullptr, scores(CUDNN_DATA_INT32));
  }
  // x where `mask`, else b.
  Tensor choose(Tensor x, Tensor b, Tensor mask, Tensor to) {
    CudnnDescriptor& what = part(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    what.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_BINARY_SELECT);
    what.set(CUDNN_ATTR_POINTWISE_MATH_PREC, kFloat).finalize("describing a choice");
    return apply(what, x, b, mask, to);
  }
  Tensor apply(const CudnnDescriptor& what, Tensor x, Tensor b, Tensor t, Tensor to) {
    CudnnDescriptor& operation = part(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, what);
    operation.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (t != nullptr) operation.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    operation.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to);
    return add(operation, to);
  }
  Tensor product(Tensor a, Tensor b, Tensor to) {
    CudnnDescriptor& what = part(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    what.set(CUDNN_ATTR_MATMUL_COMP_TYPE, kFloat).finalize("describing a product");
    CudnnDescriptor& operation = part(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    operation.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, what);
    operation.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    operation.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    operation.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, to);
    return add(operation, to);
  }
  // Over the axes along which `to` is 1, or of groups of heads.
  Tensor reduce(cudnnReduceTensorOp_t how, Tensor x, Tensor to) {
    CudnnDescriptor& what = part(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    what.set(CUDNN_ATTR_REDUCTION_OPERATOR, how).set(CUDNN_ATTR_REDUCTION_COMP_TYPE, kFloat);
    what.finalize("describing a reduction");
    CudnnDescriptor& operation = part(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    operation.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, what);
    operation.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    operation.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, to);
    return add(operation, to);
  }
  Tensor reshape(Tensor x, Tensor to) {
    CudnnDescriptor& operation = part(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    operation.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    operation.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, to);
    return add(operation, to);
  }

  Tensor mask(Tensor x);
  Tensor row_sums(Tensor out, Tensor dout);
  Tensor sum_heads(Tensor weights, Tensor x, AttentionTensor to, std::int64_t stride);

  CudnnDescriptor& part(cudnnBackendDescriptorType_t type) {
    return parts_.emplace_back(library_, type);
  }
  Tensor add(CudnnDescriptor& operation, Tensor result) {
    operations_.push_back(operation.finalize("describing an operation").raw());
    return result;
  }

  const CudnnLibrary& library_;
  const AttentionProblem& p_;
  std::deque<CudnnDescriptor> parts_;  // whose elements stay where they are
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::int64_t next_id_ = static_cast<std::int64_t>(AttentionTensor::kOthers);
};

// Keys behind the query are out of sight.
Tensor Builder::mask(Tensor x) {
  if (!p_.causal) return x;
  const Tensor query = index(x, 2);
  const Tensor key = index(x, 3);
  const Tensor seen =
      pointwise(CUDNN_POINTWISE_CMP_GE, query, key, scores(CUDNN_DATA_BOOLEAN), CUDNN_DATA_BOOLEAN);
  return choose(x, scalar(AttentionTensor::kMinusInfinity), seen, scores());
}

void Builder::forward() {
  const Tensor q = rows(AttentionTensor::kQuery, p_.heads, p_.strides.q);
  const Tensor k = columns(AttentionTensor::kKey, p_.kv_heads, p_.strides.k);
  const Tensor v = rows(AttentionTensor::kValue, p_.kv_heads, p_.strides.v);
  const Tensor products = product(q, k, scores());
  const Tensor scaled =
      pointwise(CUDNN_POINTWISE_MUL, products, scalar(AttentionTensor::kScale), scores());
  const Tensor masked = mask(scaled);
  const Tensor maximum = reduce(CUDNN_REDUCE_TENSOR_MAX, masked, per_row());
  const Tensor below = pointwise(CUDNN_POINTWISE_SUB, masked, maximum, scores());
  const Tensor weights = pointwise(CUDNN_POINTWISE_EXP, below, nullptr, scores());
  const Tensor sum = reduce(CUDNN_REDUCE_TENSOR_ADD, weights, per_row());
  const Tensor logarithm = pointwise(CUDNN_POINTWISE_LOG, sum, nullptr, per_row());
  pointwise(CUDNN_POINTWISE_ADD, maximum, logarithm, lse());
  const Tensor probabilities = pointwise(CUDNN_POINTWISE_DIV, weights, sum, scores(p_.dtype));
  product(probabilities, v, rows(AttentionTensor::kOut, p_.heads, p_.strides.out));
}

// What the derivative of the softmax subtracts: sum(dout * out) of each row.
Tensor Builder::row_sums(Tensor out, Tensor dout) {
  const std::int64_t width = p_.heads * p_.width;
  const Tensor products =
      between(head_sizes(), {p_.length * width, p_.length * p_.width, width, 1}, kFloat);
  const Tensor sums = reduce(CUDNN_REDUCE_TENSOR_ADD,
                             pointwise(CUDNN_POINTWISE_MUL, dout, out, products), per_row());
  return pointwise(CUDNN_POINTWISE_MUL, sums, scalar(AttentionTensor::kOne),
                   given(AttentionTensor::kRowSums, row_sizes(), row_strides(), kFloat));
}

// weights^T x of each query head, added up over the query heads that share a key/value head.
Tensor Builder::sum_heads(Tensor weights, Tensor x, AttentionTensor to, std::int64_t stride) {
  const Tensor turned = reshape(weights, transposed_scores());
  if (p_.heads == p_.kv_heads) return product(turned, x, rows(to, p_.kv_heads, stride));
  const Tensor all = product(turned, x, between(head_sizes(), head_strides(), p_.dtype));
  return reduce(CUDNN_REDUCE_TENSOR_ADD, all, rows(to, p_.kv_heads, stride));
}

void Builder::backward() {
  const AttentionStrides& s = p_.strides;
  const Tensor q = rows(AttentionTensor::kQuery, p_.heads, s.q);
  const Tensor k = columns(AttentionTensor::kKey, p_.kv_heads, s.k);
  const Tensor v = columns(AttentionTensor::kValue, p_.kv_heads, s.v);
  const Tensor out = rows(AttentionTensor::kOut, p_.heads, s.out);
  const Tensor dout = rows(AttentionTensor::kOutGradient, p_.heads, s.dout);
  const Tensor scale = scalar(AttentionTensor::kScale);
  const Tensor sums = row_sums(out, dout);

  // The probabilities once more.
  const Tensor products = product(q, k, scores());
  const Tensor scaled = pointwise(CUDNN_POINTWISE_MUL, products, scale, scores());
  const Tensor below = pointwise(CUDNN_POINTWISE_SUB, scaled, lse(), scores());
  const Tensor probabilities = pointwise(CUDNN_POINTWISE_EXP, mask(below), nullptr, scores());
  sum_heads(probabilities, dout, AttentionTensor::kValueGradient, s.dv);

  // d(scores) = scale * probabilities * (dout v^T - row sums)
  const Tensor slopes = pointwise(CUDNN_POINTWISE_SUB, product(dout, v, scores()), sums, scores());
  const Tensor weighted = pointwise(CUDNN_POINTWISE_MUL, slopes, probabilities, scores());
  const Tensor dscores = pointwise(CUDNN_POINTWISE_MUL, weighted, scale, scores(p_.dtype));
  sum_heads(dscores, q, AttentionTensor::kKeyGradient, s.dk);

  const Tensor keys = reshape(k, between({p_.sequences, p_.kv_heads, p_.length, p_.width},
                                         {p_.length * s.k, p_.width, s.k, 1}, p_.dtype));
  const Tensor query_sums = product(
      dscores, keys, given(AttentionTensor::kQuerySums, head_sizes(), head_strides(), kFloat));
  pointwise(CUDNN_POINTWISE_IDENTITY, query_sums, nullptr,
            rows(AttentionTensor::kQueryGradient, p_.heads, s.dq));
}

}  // namespace

AttentionGraph describe_attention(const CudnnLibrary& library, const AttentionProblem& problem,
                                  cudnnHandle_t handle) {
  Builder builder(library, problem);
  if (problem.backward) {
    builder.backward();
  } else {
    builder.forward();
  }
  return std::move(builder).finish(handle);
}

}  // namespace lockstep::ops::cuda
