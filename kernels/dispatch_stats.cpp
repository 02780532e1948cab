// kernels/dispatch_stats.cpp -- the table behind note_slow_path
#include "kernels/dispatch_stats.h"

#include <mutex>

namespace avid::kernels {
namespace {

struct Table {
  std::mutex mutex;
  std::map<std::string, std::int64_t> counts;
};

Table& table() {
  static Table instance;
  return instance;
}

std::string key(const char* op, const char* reason) { return std::string(op) + ": " + reason; }

}  // namespace

void note_slow_path(const char* op, const char* reason) {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  ++t.counts[key(op, reason)];
}

std::map<std::string, std::int64_t> slow_path_counts() {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  return t.counts;
}

std::int64_t slow_path_count(const char* op, const char* reason) {
  const auto counts = slow_path_counts();
  const auto found = counts.find(key(op, reason));
  return found == counts.end() ? 0 : found->second;
}

void reset_slow_path_counts() {
  Table& t = table();
  const std::lock_guard lock(t.mutex);
  t.counts.clear();
}

}  // namespace avid::kernels
