// kernels/ptx/runtime/streams.h -- queued work: streams, events, captures and graphs
//
// A stream is a queue. In early order (the usual one) it is empty at the end of every call: work is done when it is
// queued, one legal order. In late order (AVID_PTX_ORDER=late) work waits in its stream until the host waits for it,
// and work of another stream is done first only where an event demands it: another legal order, the farthest from the
// first. A program that forgot to wait sees old values in it.
// While a stream is captured, work becomes nodes of a graph. They run in the order of the calls.
// The structures behind CUDA's opaque handles are defined here, under the names that its headers gave them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/ptx/runtime/calls.h"

namespace avid::kernels::ptx {

/// Something that the device does.
using Work = std::function<void()>;

struct Queue {
  std::deque<Work> waiting;
  std::uint64_t queued = 0, done = 0;  // pieces of work so far
};

/// Does what the queue holds, up to its piece number `position`.
void finish(Queue& queue, std::uint64_t position);
/// The same for the host, to which device memory is closed then.
void wait_for(Queue& queue, std::uint64_t position);

struct Node {
  Work work;
  std::vector<std::size_t> after;  // places in the graph
};

/// A capture, under way or over. Streams and events that belong to it point to it.
struct Capture {
  cudaStream_t origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread = {};
  std::vector<cudaStream_t> streams = {};  // with the origin
  std::vector<Node> nodes = {};
  bool invalid = false, over = false;
};

/// Queues work on a stream, or adds it to the graph that the stream is captured into. Refuses what is no stream.
void queue_work(cudaStream_t stream, Work work);
/// Refuses a call that a capture does not see but whose caller may take it for part of one, where a capture that is
/// under way is in such a mode (CUDA: "potentially unsafe API calls"). The capture is lost then.
void check_allowed_while_capturing();
/// Whether a capture in such a mode is under way. Takes no mutex.
bool any_strict_capture();

/// What was made and is not destroyed, of one kind.
template <class T>
class Handles {
 public:
  explicit Handles(const char* kind) : kind_(kind) {}
  T* add(T value) { return live_.emplace_back(std::make_unique<T>(std::move(value))).get(); }
  /// Refuses what is none of them.
  T& check(T* handle) const {
    if (find(handle) == live_.end()) refuse(cudaErrorInvalidResourceHandle, std::string("this is no ") + kind_);
    return *handle;
  }
  void remove(T* handle) {
    check(handle);
    live_.erase(find(handle));
  }

 private:
  auto find(const T* handle) const {
    return std::find_if(live_.begin(), live_.end(), [&](const auto& one) { return one.get() == handle; });
  }
  const char* kind_;
  std::vector<std::unique_ptr<T>> live_;
};

Handles<CUstream_st>& streams();
/// A null handle is the default stream: it waits for no other, as streams that were made non-blocking do not for it.
CUstream_st& stream_of(cudaStream_t handle);
Handles<CUgraph_st>& graphs();

}  // namespace avid::kernels::ptx

struct CUstream_st {
  std::shared_ptr<avid::kernels::ptx::Queue> queue = std::make_shared<avid::kernels::ptx::Queue>();
  std::shared_ptr<avid::kernels::ptx::Capture> capture = {};
  std::vector<std::size_t> last = {};  // nodes that what is captured next comes after
};

struct CUevent_st {
  using Time = std::chrono::steady_clock::time_point;
  bool timed = true;
  // Where it was recorded last: a position in a queue, or nodes of a capture. Neither: never.
  std::shared_ptr<avid::kernels::ptx::Queue> queue = {};
  std::uint64_t position = 0;
  std::shared_ptr<Time> time = {};  // when the device came to that position
  std::shared_ptr<avid::kernels::ptx::Capture> capture = {};
  std::vector<std::size_t> last = {};
};

struct CUgraph_st {
  std::vector<avid::kernels::ptx::Node> nodes = {};
};

struct CUgraphExec_st {
  std::shared_ptr<const std::vector<avid::kernels::ptx::Node>> nodes = {};
};
