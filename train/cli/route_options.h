// train/cli/route_options.h -- --conv, --gemm, --attention and --norm: our kernels or NVIDIA's libraries
#pragma once

#include <memory>
#include <string>

#include "kernels/vendor/route.h"
#include "tensor/device.h"
#include "train/cli/command.h"

namespace avid::cli {

/// Empty: not given, which is native.
struct RouteOptions {
  std::string conv, gemm, attention, norm;

  std::string& of(kernels::vendor::Family family);
  const std::string& of(kernels::vendor::Family family) const;
};

/// Adds the options; use_routes(*result, device) makes them hold. `otherwise` is what the help says of their absence.
std::shared_ptr<RouteOptions> add_route_options(Command* command, const std::string& otherwise = "native");

/// Sets the process's routes. UsageError for an unknown word, and for a library on a device where it does not compute.
void use_routes(const RouteOptions& options, Device device);

}  // namespace avid::cli
