// train/progress.cpp -- see progress.h
#include "train/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>

namespace avid::train {

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  const auto s = static_cast<std::int64_t>(std::llround(std::clamp(seconds, 0.0, 1e12)));
  if (s >= 86400) return fmt::format("{} d {} h", s / 86400, s % 86400 / 3600);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string progress_text(const ProgressNumbers& n) {
  std::string text = fmt::format(
      "update {}/{}  {:.0f}%  loss {:.4g}", n.update, n.num_updates,
      100.0 * static_cast<double>(n.update) / static_cast<double>(std::max<std::int64_t>(n.num_updates, 1)), n.loss);
  if (n.mask_mean) text += fmt::format("  mask {:.3f}", *n.mask_mean);
  text +=
      fmt::format("  {:.1f} clips/s  {:.0f} MiB  {} left", n.clips_per_s, n.memory_mib, duration_text(n.seconds_left));
  return text;
}

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) == 1) {}
ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::show(const ProgressNumbers& numbers, bool force) {
  const auto now = std::chrono::steady_clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(10000);
  if (ever_ && !force && now - last_ < pause) return;
  ever_ = true;
  last_ = now;
  if (terminal_)
    std::fprintf(stderr, "\r%s\x1b[K", progress_text(numbers).c_str());
  else
    std::fprintf(stderr, "%s\n", progress_text(numbers).c_str());
  std::fflush(stderr);
  shown_ = terminal_;
}

void ProgressLine::say(const std::string& text) {
  clear();
  std::fprintf(stderr, "%s\n", text.c_str());
}

void ProgressLine::clear() {
  if (shown_) std::fprintf(stderr, "\r\x1b[K");
  shown_ = false;
}

}  // namespace avid::train
