// train/dry_run.h -- what a run would cost, without starting it
#pragma once

#include <cstdint>
#include <string>

#include "tensor/device.h"
#include "train/config.h"

namespace avid::train {

struct DryRun {
  std::string description;
  std::int64_t trained_parameters = 0, frozen_parameters = 0;
  double flops_per_update = 0;  // forward and backward (3x) of what is trained, forward of what is frozen
  double measured_gflop_s = 0;  // of a whole update on this machine, a few clips
  std::int64_t measured_clips = 0;
  double seconds_per_update = 0;  // flops_per_update at that rate
  double total_seconds = 0;
  double memory_bytes = 0;  // tensors: weights, moments, averages, and activations of one micro-batch
};

/// Builds the networks in memory and runs two updates of a few made-up clips to measure this machine. Reads base.checkpoint;
/// reads no data and writes nothing.
DryRun dry_run(const TrainConfig& config, Device device = {});

}  // namespace avid::train
