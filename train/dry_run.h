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
  bool timed = false;           // not on the simulator, whose time says nothing about a GPU's; the next four are 0 then
  double measured_gflop_s = 0;  // of a whole update on this machine, a few clips
  std::int64_t measured_clips = 0;
  double seconds_per_update = 0;  // flops_per_update at that rate
  double total_seconds = 0;
  double memory_bytes = 0;  // tensors at the worst moment: weights, moments, averages, gradients, activations, clips
  bool memory_counted = false;  // by going through an update of all clips; otherwise extrapolated from smaller ones
  double graph_bytes = 0;       // of memory_bytes: kept for the recorded update; 0 where none is recorded
};

/// Builds the networks in memory and runs a few updates of made-up clips to measure this machine. Reads
/// base.checkpoint; reads no data and writes nothing.
///
/// Memory on a device is counted, not measured: the simulator goes through two updates of the configured size, the
/// second recorded if train.graph says so, then through what comes between updates (validation, samples), allocating
/// addresses and computing nothing (kernels::sim_pretend); it runs the ops that a GPU runs. On the CPU, and in builds
/// without the simulator, the peaks of two small updates are extrapolated to the batch. `measured_flops` says how large
/// the larger one is.
DryRun dry_run(const TrainConfig& config, Device device = {}, double measured_flops = 60e9);

}  // namespace avid::train
