#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "core/device_runtime.h"

// The stand-in for a device with streams that run on their own, as on a GPU: each is a thread that
// does its work in order, after small random pauses, while the host goes on. So what only the order
// of calls kept right on the plain stand-in needs its events here; and the thread sanitizer sees
// every missing one as a race. Kernels are not run by it.
namespace lockstep::testing {

const core::DeviceRuntime& async_runtime();
core::DeviceRef async_device(int ordinal = 0);

// Addresses in what a piece of work reads and writes: one for each allocation will do.
using Touched = std::vector<const void*>;

// Appends work to a stream of async_runtime(). It may block; the stream then stands still.
void enqueue(core::DeviceStreamHandle* stream, std::function<void()> work, Touched touched = {});

// Streams and events alive, to find leaks.
int live_streams();
int live_events();

// How often device memory has been freed that a stream was still to touch, so far. The runtime
// waits for the stream then, as CUDA's does; but whoever frees memory shall have waited (see
// Communicator), except on the way out after an error.
int early_frees();

// How long a stream pauses before a piece of work: at most this many microseconds, mostly less.
std::atomic<int>& longest_pause();

}  // namespace lockstep::testing
