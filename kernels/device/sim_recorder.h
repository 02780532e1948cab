// kernels/device/sim_recorder.h -- where the simulator's launches go while work is recorded (runtime_sim.cpp), or only
// looked at
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <vector>

namespace avid::kernels::simulator {

struct Launch;

/// Told of everything that a program queues, in order, while nothing of it is done.
class LaunchNotes {
 public:
  virtual ~LaunchNotes() = default;
  virtual void launched(const Launch& launch) = 0;
  /// Between two places of the device.
  virtual void copied(std::size_t bytes) = 0;
  virtual void filled(std::size_t bytes) = 0;
};

/// What is to be done, in order; every step can be done again.
struct SimRecorder {
  std::vector<std::function<void()>> steps;
  bool pretends = false;         ///< nothing is recorded: launches are dropped (sim_pretend)
  LaunchNotes* notes = nullptr;  ///< and told to these
};

/// Null: launches are run. Set and cleared between launches only.
extern SimRecorder* recorder;

/// Notes that a kernel runs now: a GPU has loaded it from here on.
void note_run(const void* kernel);
/// Whether it ran before.
bool has_run(const void* kernel);

/// sim_pretend(true), but blocks can be looked at: they take no memory where nobody wrote and read as zeros, and small
/// copies to the device are made (tables, pointers, ids), so that `notes` may run a block of a launch. Null ends it.
void pretend_and_note(LaunchNotes* notes);

/// A block of memory that pretend_and_note() gave.
struct NotedBlock {
  const std::byte* begin = nullptr;
  std::size_t bytes = 0;
};
/// The one that holds the address, if there is one.
std::optional<NotedBlock> block_at(const void* address);

}  // namespace avid::kernels::simulator
