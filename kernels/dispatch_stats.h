// kernels/dispatch_stats.h -- which ops took a slower route than the one they are tuned for, and how often
//
// No silent second path: an op that falls back (a size, layout or feature its fast path lacks) says so here. `avid
// bench` prints the counts and tests assert them. Counting takes a lock; callers note once per op call, never per row.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace avid::kernels {

/// Counts one call of `op` that went the slow way because of `reason`. Safe from any thread.
void note_slow_path(const char* op, const char* reason);

/// Counts since the start or the last reset, keyed "op: reason".
std::map<std::string, std::int64_t> slow_path_counts();
/// The count of one key; 0 when it never happened.
std::int64_t slow_path_count(const char* op, const char* reason);
void reset_slow_path_counts();

}  // namespace avid::kernels
