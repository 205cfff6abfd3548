#include "ops/transfer.h"

#include <cstring>

#include "core/check.h"
#include "ops/op_bodies.h"
#include "ops/op_checks.h"

namespace lockstep::ops {

using core::ConstTensorView;
using core::TensorView;

namespace {

void check_contiguous(const char* op, const ConstTensorView& x) {
  LOCKSTEP_CHECK(x.contiguous(), "{}: a view whose rows lie apart", op);
}

}  // namespace

void set_zero(OpContext& context, TensorView x) {
  bodies_for(context, "set_zero", {x});
  check_contiguous("set_zero", x);
  if (context.device_ref().on_cpu()) {
    std::memset(x.raw(), 0, x.bytes());
  } else {
    context.stream().fill(x.raw(), 0, x.bytes());
  }
}

void copy(OpContext& context, ConstTensorView from, TensorView to) {
  bodies_for(context, "copy", {from, to});
  check_contiguous("copy", from);
  check_contiguous("copy", to);
  LOCKSTEP_CHECK(from.dtype() == to.dtype() && from.elements() == to.elements(),
                 "copy: {} elements of {} to {} of {}", from.elements(),
                 core::name_of(from.dtype()), to.elements(), core::name_of(to.dtype()));
  if (context.device_ref().on_cpu()) {
    std::memcpy(to.raw(), from.raw(), from.bytes());
  } else {
    context.stream().on_device(to.raw(), from.raw(), from.bytes());
  }
}

void cast(OpContext& context, ConstTensorView from, TensorView to) {
  constexpr const char* kOp = "cast";
  const OpBodies& bodies = bodies_for(context, kOp, {from, to});
  check_vector(kOp, "from", from, from.dtype(), to.elements());
  check_vector(kOp, "to", to, to.dtype(), from.elements());
  bodies.cast(context, from, to);
}

void to_host(OpContext& context, ConstTensorView x, void* to) {
  bodies_for(context, "to_host", {x});
  check_contiguous("to_host", x);
  if (context.device_ref().on_cpu()) {
    std::memcpy(to, x.raw(), x.bytes());
  } else {
    context.stream().to_host(to, x.raw(), x.bytes());
  }
}

void from_host(OpContext& context, const void* from, TensorView x) {
  bodies_for(context, "from_host", {x});
  check_contiguous("from_host", x);
  if (context.device_ref().on_cpu()) {
    std::memcpy(x.raw(), from, x.bytes());
    return;
  }
  context.stream().to_device(x.raw(), from, x.bytes());
  context.stream().synchronize();
}

}  // namespace lockstep::ops
