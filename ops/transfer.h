#pragma once

#include "core/tensor.h"
#include "ops/op_context.h"

// Moving values within the memory of a context's device, and between it and the host. Views are
// contiguous; on a device the work is put on the stream of the context.
namespace lockstep::ops {

void set_zero(OpContext& context, core::TensorView x);

// to = from: the same number of elements of the same dtype.
void copy(OpContext& context, core::ConstTensorView from, core::TensorView to);

// to = from, each element rounded once to nearest even; fp32 and 16-bit floats, [n] each.
void cast(OpContext& context, core::ConstTensorView from, core::TensorView to);

// To and from memory of the host, of x.bytes() bytes. to_host returns when they are there (and so
// all work issued before is done), from_host when `from` may change; neither is for the steady
// state (see Results and OpContext::upload).
void to_host(OpContext& context, core::ConstTensorView x, void* to);
void from_host(OpContext& context, const void* from, core::TensorView x);

}  // namespace lockstep::ops
