// kernels/vendor/route.h -- our kernels or NVIDIA's libraries: chosen per family of ops, "auto" by a measurement
//
// Ours are the default everywhere. A library is used where it was asked for by name, or where "auto" found it faster
// for a shape; both are printed. Nothing falls back in silence: a library that is missing, or has no algorithm, is an
// error when it was asked for by name, and a printed reason when "auto" looked.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/spread.h"

namespace avid::kernels::vendor {

/// Ops that a library offers: convolutions, softmax attention, layer norm (cuDNN), matrix products (cuBLASLt).
enum class Family { conv, gemm, attention, norm };
inline constexpr std::array kFamilies{Family::conv, Family::gemm, Family::attention, Family::norm};
enum class Route { native, library, automatic };

/// A library cannot be loaded, or has no algorithm for a problem. what() is one line.
class LibraryError : public GpuError {
 public:
  using GpuError::GpuError;
};

/// "conv", "gemm", "attention", "norm": the names of the options.
const char* name_of(Family family);
/// "cuDNN", "cuBLASLt"
const char* library_of(Family family);
/// "cudnn", "cublaslt": the library as a value of the option.
const char* option_of(Family family);
/// Reads "native", "cudnn" / "cublaslt", "auto". Throws std::invalid_argument with one line.
Route parse_route(Family family, std::string_view text);

/// Of the whole process; native until set. Setting a route forgets what "auto" measured.
void set_route(Family family, Route route);
Route route(Family family);

/// What "auto" found for one shape.
struct Choice {
  std::string what;  ///< "conv3d_fwd bf16 [8,16,64,64] ..."
  bool library = false;
  Spread native_ms;                  ///< of several runs; the medians decide
  std::optional<Spread> library_ms;  ///< none when the library refused
  std::string refusal;               ///< its words then
  std::int64_t calls = 0;            ///< made with this shape so far
};
std::vector<Choice> choices();

/// Milliseconds of a run of f, from several; nothing where time cannot be taken (while a graph is being captured).
using Stopwatch = std::function<std::optional<Spread>(const std::function<void()>& f)>;

/// Runs `native` or `library` as the family's route says. automatic: the first call with a new `what` times both (they
/// overwrite the same outputs), prints the choice on stderr, and keeps it; later calls follow it. The library's
/// LibraryError passes through when it was asked for by name.
void run_either(
    Family family, const std::function<std::string()>& what, const std::function<void()>& native,
    const std::function<void()>& library, const Stopwatch& milliseconds);

/// One line of `what`, as it is printed: "auto: conv3d_fwd bf16 ...: ours 0.120 ms, cuDNN 0.150 ms: ours".
std::string describe(Family family, const Choice& choice);

}  // namespace avid::kernels::vendor
