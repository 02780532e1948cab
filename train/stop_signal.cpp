// train/stop_signal.cpp -- see stop_signal.h
#include "train/stop_signal.h"

#include <signal.h>

namespace avid::train {
namespace {

volatile sig_atomic_t g_received = 0;
struct sigaction g_old_int, g_old_term;

void remember(int signal_number) {
  g_received = signal_number;
  // The next one finds the system's own handling.
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  g_received = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &g_old_int);
  sigaction(SIGTERM, &action, &g_old_term);
}

StopSignal::~StopSignal() {
  sigaction(SIGINT, &g_old_int, nullptr);
  sigaction(SIGTERM, &g_old_term, nullptr);
}

int StopSignal::received() const { return g_received; }

}  // namespace avid::train
