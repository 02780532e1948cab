// kernels/device/sim_recorder.h -- where the simulator's launches go while work is recorded (runtime_sim.cpp)
#pragma once

#include <functional>
#include <vector>

namespace avid::kernels::simulator {

/// What is to be done, in order; every step can be done again.
using SimRecorder = std::vector<std::function<void()>>;

/// Null: launches are run. Set and cleared between launches only.
extern SimRecorder* recorder;

}  // namespace avid::kernels::simulator
