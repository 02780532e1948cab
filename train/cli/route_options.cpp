// train/cli/route_options.cpp -- reads --conv, --gemm, --attention and --norm
#include "train/cli/route_options.h"

#include <stdexcept>

#include "tensor/error.h"

namespace avid::cli {

namespace vendor = kernels::vendor;

std::shared_ptr<RouteOptions> add_route_options(Command* command, const std::string& otherwise) {
  auto options = std::make_shared<RouteOptions>();
  const std::string rest = fmt::format("auto, the faster one for each shape (default: {})", otherwise);
  command->add_option("--conv", options->conv, "convolutions on cuda: native, cudnn, or " + rest);
  command->add_option("--gemm", options->gemm, "matrix products on cuda: native, cublaslt, or " + rest);
  command->add_option(
      "--attention", options->attention, "softmax attention within frames on cuda: native, cudnn, or " + rest);
  command->add_option("--norm", options->norm, "layer norm of classifiers on cuda: native, cudnn, or " + rest);
  return options;
}

std::string& RouteOptions::of(vendor::Family family) {
  switch (family) {
    case vendor::Family::conv: return conv;
    case vendor::Family::gemm: return gemm;
    case vendor::Family::attention: return attention;
    default: return norm;
  }
}

const std::string& RouteOptions::of(vendor::Family family) const { return const_cast<RouteOptions&>(*this).of(family); }

void use_routes(const RouteOptions& options, Device device) {
  for (const vendor::Family family : vendor::kFamilies) {
    const std::string text = options.of(family).empty() ? "native" : options.of(family);
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
  }
}

}  // namespace avid::cli
