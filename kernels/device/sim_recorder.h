// kernels/device/sim_recorder.h -- where the simulator's launches go while work is recorded (runtime_sim.cpp)
#pragma once

#include <functional>
#include <vector>

namespace avid::kernels::simulator {

/// What is to be done, in order; every step can be done again.
struct SimRecorder {
  std::vector<std::function<void()>> steps;
  bool pretends = false;  ///< nothing is recorded: launches are dropped (sim_pretend)
};

/// Null: launches are run. Set and cleared between launches only.
extern SimRecorder* recorder;

/// Notes that a kernel runs now: a GPU has loaded it from here on.
void note_run(const void* kernel);
/// Whether it ran before.
bool has_run(const void* kernel);

}  // namespace avid::kernels::simulator
