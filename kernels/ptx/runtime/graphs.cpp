// kernels/ptx/runtime/graphs.cpp -- the CUDA runtime's graphs, on the machine
//
// A node holds what it needs from its capture on: a kernel's arguments as they were, addresses and sizes of copies.
// What the addresses mean is looked up at every launch of the graph, so memory that was freed meanwhile is seen.
#include "kernels/ptx/runtime/streams.h"

namespace avid::kernels::ptx {
namespace {

Handles<CUgraphExec_st>& executables() {
  static auto* all = new Handles<CUgraphExec_st>("executable graph");
  return *all;
}

}  // namespace

Handles<CUgraph_st>& graphs() {
  static auto* all = new Handles<CUgraph_st>("graph");
  return *all;
}

}  // namespace avid::kernels::ptx

using namespace avid::kernels::ptx;

extern "C" {

cudaError_t CUDARTAPI cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t* nodes, std::size_t* count) {
  return call(__func__, [&] {
    const CUgraph_st& graph = graphs().check(handle);
    if (count == nullptr) refuse(cudaErrorInvalidValue, "no place for the number of nodes");
    if (nodes != nullptr) refuse(cudaErrorNotSupported, "only the number of nodes is modelled");
    *count = graph.nodes.size();
  });
}

cudaError_t CUDARTAPI
cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t handle, unsigned long long flags) {
  return call(__func__, [&] {
    const CUgraph_st& graph = graphs().check(handle);
    if (executable == nullptr || flags != 0) refuse(cudaErrorInvalidValue, "flags that are not modelled, or no place");
    *executable = executables().add({std::make_shared<const std::vector<Node>>(graph.nodes)});
  });
}

cudaError_t CUDARTAPI cudaGraphDestroy(cudaGraph_t graph) {
  return call(__func__, [&] { graphs().remove(graph); });
}

cudaError_t CUDARTAPI cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return call(__func__, [&] { executables().remove(executable); });
}

cudaError_t CUDARTAPI cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t handle) {
  return queueing_call(__func__, [&] {
    executables().check(executable);
    if (stream_of(handle).capture != nullptr) refuse(cudaErrorStreamCaptureUnsupported, "the stream is being captured");
  });
}

cudaError_t CUDARTAPI cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  return queueing_call(__func__, [&] {
    const auto nodes = executables().check(executable).nodes;
    if (stream_of(handle).capture != nullptr) refuse(cudaErrorNotSupported, "graphs in graphs are not modelled");
    queue_work(handle, [nodes] {
      for (const Node& node : *nodes)
        if (device_error() == cudaSuccess) node.work();
    });
  });
}

}  // extern "C"
