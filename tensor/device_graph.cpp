// tensor/device_graph.cpp -- see device_graph.h
#include "tensor/device_graph.h"

#include <exception>

#include "tensor/memory_watch.h"
#include "tensor/ops/on_device.h"
#include "tensor/storage.h"

namespace avid {

UseGraph parse_use_graph(std::string_view text, std::string_view where) {
  if (text == "off") return UseGraph::off;
  if (text == "on") return UseGraph::on;
  if (text == "auto") return UseGraph::automatic;
  fail<ConfigError>("{}: expected auto, on or off, got {}", where, text);
}

DeviceGraph::DeviceGraph() = default;
DeviceGraph::~DeviceGraph() = default;
DeviceGraph::DeviceGraph(DeviceGraph&&) noexcept = default;
DeviceGraph& DeviceGraph::operator=(DeviceGraph&&) noexcept = default;

DeviceGraph DeviceGraph::record(Device device, const std::function<void()>& work, const MemoryWatch* watch) {
  DeviceGraph graph;
  graph.device_ = device;
  // Earlier runs of the same work tell how much it needs.
  const PoolStats pool = device_pool_stats(device);
  const kernels::MemoryPlan plan = watch != nullptr
                                       ? kernels::plan_memory(watch->uses())
                                       : kernels::MemoryPlan{.slab_bytes = pool.peak_in_use_bytes - pool.in_use_bytes};
  try {
    on_device(device, "graph", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::record_begin<Backend>(stream, plan);
      try {
        work();
      } catch (...) {
        kernels::record_cancel<Backend>(stream);
        throw;
      }
      graph.work_ = kernels::record_end<Backend>(stream);
    });
  } catch (const kernels::GpuError& error) {
    fail<DeviceError>("graph: {}", error.what());
  }
  return graph;
}

void DeviceGraph::replay() {
  check<DeviceError>(defined(), "graph: nothing was recorded");
  try {
    on_device(device_, "graph", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::replay<Backend>(stream, *work_);
    });
  } catch (const kernels::GpuError& error) {
    fail<DeviceError>("graph: {}", error.what());
  }
}

std::int64_t DeviceGraph::num_steps() const { return defined() ? work_->num_steps() : 0; }
std::size_t DeviceGraph::memory_bytes() const { return defined() ? work_->memory_bytes() : 0; }

}  // namespace avid
