// train/cli/bench_predict.h -- avid bench step --predict: a table of what a step would take on a GPU
#pragma once

#include "train/cli/bench_options.h"

namespace avid::cli {

/// Predicts the step of `options` on options.predict and prints it; continues in the program avid_traffic when this one
/// has no race hooks.
void run_prediction(BenchOptions& options);

/// Starts the same command line again in avid_traffic, the program whose kernels tell the simulator of every access.
/// UsageError, for `command`, where it was not built.
[[noreturn]] void continue_in_traffic_program(const char* command);

}  // namespace avid::cli
