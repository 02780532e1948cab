// train/cli/route_options.cpp -- reads --conv and --gemm
#include "train/cli/route_options.h"

#include <stdexcept>

#include "kernels/vendor/route.h"
#include "tensor/error.h"

namespace avid::cli {

namespace vendor = kernels::vendor;

std::shared_ptr<RouteOptions> add_route_options(Command* command) {
  auto options = std::make_shared<RouteOptions>();
  command
      ->add_option(
          "--conv", options->conv, "Convolutions on cuda: native, cudnn, or auto (the faster one for each shape)")
      ->capture_default_str();
  command
      ->add_option(
          "--gemm", options->gemm, "Matrix products on cuda: native, cublaslt, or auto (the faster one for each shape)")
      ->capture_default_str();
  return options;
}

void use_routes(const RouteOptions& options, Device device) {
  const auto use = [&](vendor::Family family, const std::string& text) {
    vendor::Route route{};
    try {
      route = vendor::parse_route(family, text);
    } catch (const std::invalid_argument& error) {
      fail<UsageError>("{}", error.what());
    }
    check<UsageError>(
        route == vendor::Route::native || device.kind == DeviceKind::cuda,
        "--{} {}: {} computes on cuda, the device is {} | leave --{} out", vendor::name_of(family), text,
        vendor::library_of(family), device.to_string(), vendor::name_of(family));
    vendor::set_route(family, route);
  };
  use(vendor::Family::conv, options.conv);
  use(vendor::Family::gemm, options.gemm);
}

}  // namespace avid::cli
