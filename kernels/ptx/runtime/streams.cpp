// kernels/ptx/runtime/streams.cpp -- the CUDA runtime's streams, events and captures, on the machine
//
// The rules of capture are those of CUDA's programming guide: a captured stream or event is not to be waited for by the
// host; a stream that waits for an event of a capture joins it, and its work is to be joined with the origin's before
// the end; nothing in a capture waits for what lies outside; what breaks a rule spoils the capture, which can only be
// ended then, without a graph.
#include <algorithm>
#include <atomic>

#include "kernels/ptx/runtime/device_memory.h"
#include "kernels/ptx/runtime/streams.h"

namespace avid::kernels::ptx {
namespace {

Handles<CUevent_st>& events() {
  static auto* all = new Handles<CUevent_st>("event");
  return *all;
}

std::vector<std::shared_ptr<Capture>>& captures_under_way() {
  static auto* all = new std::vector<std::shared_ptr<Capture>>;
  return *all;
}

std::atomic<int> strict_captures{0};

[[noreturn]] void spoil(Capture& capture, cudaError_t error, std::string reason) {
  capture.invalid = true;
  refuse(error, std::move(reason) + "; the capture is lost");
}

void check_valid(const Capture& capture) {
  if (capture.invalid) refuse(cudaErrorStreamCaptureInvalidated, "the capture was lost before, and is to be ended");
}

void push(Queue& queue, Work work) {
  queue.waiting.push_back(std::move(work));
  ++queue.queued;
  if (!settings().late) finish(queue, queue.queued);
}

/// Sorted, without repetitions.
std::vector<std::size_t> joined(std::vector<std::size_t> a, const std::vector<std::size_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end());
  a.erase(std::unique(a.begin(), a.end()), a.end());
  return a;
}

/// Whether every node of the capture lies before one of `ends`, or is one.
bool all_joined(const Capture& capture, const std::vector<std::size_t>& ends) {
  std::vector<bool> before(capture.nodes.size());
  for (const std::size_t end : ends) before[end] = true;
  for (std::size_t i = capture.nodes.size(); i-- > 0;)
    if (before[i])
      for (const std::size_t j : capture.nodes[i].after) before[j] = true;
  return std::find(before.begin(), before.end(), false) == before.end();
}

void end_capture(Capture& capture) {
  capture.over = true;
  if (capture.mode != cudaStreamCaptureModeRelaxed) --strict_captures;
  for (CUstream_st* stream : capture.streams) {
    stream->capture = nullptr;
    stream->last.clear();
  }
  std::erase_if(captures_under_way(), [&](const auto& one) { return one.get() == &capture; });
}

/// Refuses an event that the host cannot ask about.
void check_not_captured(const CUevent_st& event) {
  if (event.capture == nullptr) return;
  if (!event.capture->over)
    spoil(*event.capture, cudaErrorCapturedEvent, "the event was recorded in a stream that is being captured");
  refuse(cudaErrorCapturedEvent, "the event was recorded in a stream while that was captured");
}

}  // namespace

Handles<CUstream_st>& streams() {
  static auto* all = new Handles<CUstream_st>("stream");
  return *all;
}

CUstream_st& stream_of(cudaStream_t handle) {
  static auto* default_stream = new CUstream_st;
  return handle == nullptr ? *default_stream : streams().check(handle);
}

void finish(Queue& queue, std::uint64_t position) {
  while (queue.done < position) {
    const Work work = std::move(queue.waiting.front());
    queue.waiting.pop_front();
    ++queue.done;
    if (device_error() == cudaSuccess) work();
  }
}

void wait_for(Queue& queue, std::uint64_t position) {
  finish(queue, position);
  close_device_memory();
}

void queue_work(cudaStream_t handle, Work work) {
  CUstream_st& stream = stream_of(handle);
  if (stream.capture == nullptr) return push(*stream.queue, std::move(work));
  Capture& capture = *stream.capture;
  check_valid(capture);
  capture.nodes.push_back({std::move(work), stream.last});
  stream.last = {capture.nodes.size() - 1};
}

bool any_strict_capture() { return strict_captures != 0; }

void check_allowed_while_capturing() {
  for (const std::shared_ptr<Capture>& capture : captures_under_way()) {
    const bool mine = capture->thread == std::this_thread::get_id();
    if (capture->mode == cudaStreamCaptureModeRelaxed || (capture->mode == cudaStreamCaptureModeThreadLocal && !mine))
      continue;
    spoil(*capture, cudaErrorStreamCaptureUnsupported, "not allowed while a stream is captured in this mode");
  }
}

}  // namespace avid::kernels::ptx

using namespace avid::kernels::ptx;

extern "C" {

// ---- streams ----

cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call(__func__, [&] {
    if (stream == nullptr) refuse(cudaErrorInvalidValue, "no place for the stream");
    if (flags != cudaStreamNonBlocking)
      refuse(cudaErrorNotSupported, "streams that wait for the default stream are not modelled");
    *stream = streams().add({});
  });
}

cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t handle) {
  return call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    if (stream.capture != nullptr)
      spoil(*stream.capture, cudaErrorStreamCaptureUnsupported, "the stream is being captured: nothing of it runs");
    check_allowed_while_capturing();
    wait_for(*stream.queue, stream.queue->queued);
  });
}

cudaError_t CUDARTAPI cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned flags) {
  return queueing_call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    const CUevent_st& event = events().check(event_handle);
    if (flags != cudaEventWaitDefault) refuse(cudaErrorNotSupported, "waits across captures are not modelled");
    if (stream.capture != nullptr) check_valid(*stream.capture);
    if (event.capture == nullptr) {
      if (stream.capture != nullptr)
        spoil(
            *stream.capture, cudaErrorStreamCaptureIsolation,
            "the stream is being captured, and the event was not recorded in that capture");
      if (event.queue == nullptr) return;  // never recorded: it is over
      push(*stream.queue, [queue = event.queue, position = event.position] { finish(*queue, position); });
      return;
    }
    if (event.capture->over) refuse(cudaErrorCapturedEvent, "the event was recorded in a capture that is over");
    check_valid(*event.capture);
    if (stream.capture == nullptr) {  // from here on part of it
      stream.capture = event.capture;
      stream.capture->streams.push_back(handle);
    } else if (stream.capture != event.capture) {
      event.capture->invalid = true;
      spoil(*stream.capture, cudaErrorStreamCaptureMerge, "the event belongs to another capture than the stream");
    }
    stream.last = joined(stream.last, event.last);
  });
}

// ---- events ----

cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call(__func__, [&] {
    if (event == nullptr || (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming)) != 0)
      refuse(cudaErrorInvalidValue, "flags that are not modelled, or no place");
    *event = events().add({.timed = (flags & cudaEventDisableTiming) == 0});
  });
}

cudaError_t CUDARTAPI cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t event) {
  return call(__func__, [&] { events().remove(event); });
}

cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t event_handle, cudaStream_t handle) {
  return queueing_call(__func__, [&] {
    CUevent_st& event = events().check(event_handle);
    const CUstream_st& stream = stream_of(handle);
    if (stream.capture != nullptr) {
      check_valid(*stream.capture);
      event = {.timed = event.timed, .capture = stream.capture, .last = stream.last};
      return;
    }
    auto time = std::make_shared<CUevent_st::Time>();
    event = {.timed = event.timed, .queue = stream.queue, .position = stream.queue->queued + 1, .time = time};
    push(*stream.queue, [time] { *time = std::chrono::steady_clock::now(); });
  });
}

cudaError_t CUDARTAPI cudaEventSynchronize(cudaEvent_t handle) {
  return call(__func__, [&] {
    const CUevent_st& event = events().check(handle);
    check_not_captured(event);
    check_allowed_while_capturing();
    if (event.queue != nullptr) wait_for(*event.queue, event.position);
  });
}

cudaError_t CUDARTAPI cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return call(__func__, [&] {
    if (milliseconds == nullptr) refuse(cudaErrorInvalidValue, "no place for the time");
    for (const cudaEvent_t handle : {from, to}) {
      const CUevent_st& event = events().check(handle);
      check_not_captured(event);
      if (!event.timed) refuse(cudaErrorInvalidResourceHandle, "the event was made without timing");
      if (event.queue == nullptr) refuse(cudaErrorInvalidResourceHandle, "the event was never recorded");
      if (event.queue->done < event.position) refuse(cudaErrorNotReady, "the event is not over: nobody waited for it");
    }
    *milliseconds = std::chrono::duration<float, std::milli>(*to->time - *from->time).count();
  });
}

// ---- captures ----

cudaError_t CUDARTAPI cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    if (handle == nullptr) refuse(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
    if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed)
      refuse(cudaErrorInvalidValue, "no such mode");
    if (stream.capture != nullptr) refuse(cudaErrorIllegalState, "the stream is being captured already");
    stream.capture = std::make_shared<Capture>(
        Capture{.origin = handle, .mode = mode, .thread = std::this_thread::get_id(), .streams = {handle}});
    captures_under_way().push_back(stream.capture);
    if (mode != cudaStreamCaptureModeRelaxed) ++strict_captures;
  });
}

cudaError_t CUDARTAPI cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return call(__func__, [&] {
    const CUstream_st& stream = stream_of(handle);
    if (status == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    *status = stream.capture == nullptr ? cudaStreamCaptureStatusNone
              : stream.capture->invalid ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
  });
}

cudaError_t CUDARTAPI cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  return call(__func__, [&] {
    CUstream_st& stream = stream_of(handle);
    if (graph == nullptr) refuse(cudaErrorInvalidValue, "no place for the graph");
    *graph = nullptr;
    if (stream.capture == nullptr) refuse(cudaErrorIllegalState, "the stream is not being captured");
    const std::shared_ptr<Capture> capture = stream.capture;
    if (capture->origin != handle) spoil(*capture, cudaErrorStreamCaptureUnmatched, "the capture began elsewhere");
    if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
      refuse(cudaErrorStreamCaptureWrongThread, "the capture began in another thread");
    const bool complete = all_joined(*capture, stream.last);
    end_capture(*capture);
    if (capture->invalid) refuse(cudaErrorStreamCaptureInvalidated, "the capture was lost before");
    if (!complete)
      refuse(cudaErrorStreamCaptureUnjoined, "work of a stream that joined does not come before the origin's end");
    *graph = graphs().add({std::move(capture->nodes)});
  });
}

}  // extern "C"
