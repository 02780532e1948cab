// kernels/vendor/route.cpp -- settings of the process, and what "auto" has measured
#include "kernels/vendor/route.h"

#include <array>
#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <stdexcept>

namespace avid::kernels::vendor {
namespace {

std::array<std::atomic<Route>, kFamilies.size()> routes{};
std::mutex mutex;
std::array<std::map<std::string, Choice>, kFamilies.size()> found;

std::size_t index(Family family) { return static_cast<std::size_t>(family); }

std::string milliseconds_text(double ms) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g ms", ms);
  return text;
}

/// Times both. Nothing when no time can be taken now.
std::optional<Choice> measure(
    const std::string& what, const std::function<void()>& native, const std::function<void()>& library,
    const Stopwatch& milliseconds) {
  Choice choice;
  choice.what = what;
  const std::optional<Spread> ours = milliseconds(native);
  if (!ours) return {};
  choice.native_ms = *ours;
  try {
    choice.library_ms = milliseconds(library);
  } catch (const LibraryError& error) {
    choice.refusal = error.what();
  }
  choice.library = choice.library_ms && choice.library_ms->median < choice.native_ms.median;
  return choice;
}

}  // namespace

const char* name_of(Family family) {
  constexpr std::array kNames{"conv", "gemm", "attention", "norm"};
  return kNames[index(family)];
}
const char* library_of(Family family) { return family == Family::gemm ? "cuBLASLt" : "cuDNN"; }
const char* option_of(Family family) { return family == Family::gemm ? "cublaslt" : "cudnn"; }

Route parse_route(Family family, std::string_view text) {
  if (text == "native") return Route::native;
  if (text == option_of(family)) return Route::library;
  if (text == "auto") return Route::automatic;
  throw std::invalid_argument(
      std::string("--") + name_of(family) + ": expected native, " + option_of(family) + " or auto, got '" +
      std::string(text) + "'");
}

void set_route(Family family, Route route) {
  const std::lock_guard lock(mutex);
  routes[index(family)] = route;
  found[index(family)].clear();
}

Route route(Family family) { return routes[index(family)].load(std::memory_order_relaxed); }

std::vector<Choice> choices() {
  const std::lock_guard lock(mutex);
  std::vector<Choice> out;
  for (const auto& family : found)
    for (const auto& [what, choice] : family) out.push_back(choice);
  return out;
}

std::string describe(Family family, const Choice& choice) {
  std::string out = "auto: " + choice.what + ": ours " + milliseconds_text(choice.native_ms.median) + ", " +
                    library_of(family) + " " +
                    (choice.library_ms ? milliseconds_text(choice.library_ms->median) : "refused");
  out += std::string(": ") + (choice.library ? library_of(family) : "ours");
  if (!choice.refusal.empty()) out += " (" + choice.refusal + ")";
  return out;
}

void run_either(
    Family family, const std::function<std::string()>& what, const std::function<void()>& native,
    const std::function<void()>& library, const Stopwatch& milliseconds) {
  const Route chosen = route(family);
  if (chosen != Route::automatic) {
    chosen == Route::library ? library() : native();
    return;
  }
  const std::string key = what();
  bool use_library = false;
  {
    const std::lock_guard lock(mutex);
    auto& known = found[index(family)];
    auto entry = known.find(key);
    if (entry == known.end()) {
      const std::optional<Choice> choice = measure(key, native, library, milliseconds);
      if (choice) {
        entry = known.emplace(key, *choice).first;
        std::fprintf(stderr, "%s\n", describe(family, *choice).c_str());
      } else {
        std::fprintf(stderr, "auto: %s: ours, because no time can be taken inside a graph\n", key.c_str());
      }
    }
    if (entry != known.end()) {
      ++entry->second.calls;
      use_library = entry->second.library;
    }
  }
  use_library ? library() : native();
}

}  // namespace avid::kernels::vendor
