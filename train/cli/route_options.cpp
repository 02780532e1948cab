// train/cli/route_options.cpp -- reads --conv and --gemm
#include "train/cli/route_options.h"

#include <stdexcept>

#include "kernels/vendor/route.h"
#include "tensor/error.h"

namespace avid::cli {

namespace vendor = kernels::vendor;

std::shared_ptr<RouteOptions> add_route_options(Command* command, const std::string& otherwise) {
  auto options = std::make_shared<RouteOptions>();
  const std::string rest = fmt::format("auto, the faster one for each shape (default: {})", otherwise);
  command->add_option("--conv", options->conv, "convolutions on cuda: native, cudnn, or " + rest);
  command->add_option("--gemm", options->gemm, "matrix products on cuda: native, cublaslt, or " + rest);
  return options;
}

void use_routes(const RouteOptions& options, Device device) {
  const auto use = [&](vendor::Family family, const std::string& given) {
    const std::string text = given.empty() ? "native" : given;
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
