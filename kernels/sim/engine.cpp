// kernels/sim/engine.cpp -- threads of a block on fibers, the scheduler, the barrier
#include "kernels/sim/engine.h"

#include <algorithm>
#include <map>

#include "kernels/device/gpu_sim.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {

Engine::Engine() : fibers_(&Engine::fiber_body) {}

void Engine::begin_launch(const Launch& launch) {
  launch_ = launch;
  order_ = options().order;
  sim::gridDim = launch.grid;
  sim::blockDim = launch.block;
  const std::uint32_t n = launch.block.x * launch.block.y * launch.block.z;
  num_warps_ = (n + 31) / 32;
  if (threads_.size() != n) threads_.resize(n);
  if (warps_.size() < num_warps_) warps_.resize(num_warps_);
  std::uint32_t number = 0;
  for (unsigned z = 0; z < launch.block.z; ++z)
    for (unsigned y = 0; y < launch.block.y; ++y)
      for (unsigned x = 0; x < launch.block.x; ++x, ++number) {
        threads_[number].index = {x, y, z};
        threads_[number].number = number;
      }
  races.begin_launch();
}

std::uint32_t Engine::random() {
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return static_cast<std::uint32_t>(random_state_ >> 32);
}

Engine& own_engine() {
  static thread_local Engine mine;
  engine_of_this_thread = &mine;
  return mine;
}

void Engine::run_block(std::uint64_t block, BlockWork* work) {
  const sim::dim3 grid = launch_.grid;
  block_ = static_cast<std::uint32_t>(block);
  sim::blockIdx = {
      static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
      static_cast<unsigned>(block / grid.x / grid.y)};
  const auto n = static_cast<std::uint32_t>(threads_.size());
  num_live_ = n;
  num_arrived_ = num_finished_ = 0;
  ready_warps_ = 0;
  for (Thread& t : threads_) {
    t.status = Status::not_started;
    t.fiber = nullptr;
    t.copies.clear();
    t.groups.clear();
    t.proxy_fences = 0;
  }
  barriers.begin_block();
  tensor_copies.begin_block();
  warpgroups.begin_block();
  for (std::uint32_t w = 0; w < num_warps_; ++w) {
    warps_[w].alive = n - w * 32 >= 32 ? ~0u : (1u << (n - w * 32)) - 1;
    warps_[w].num_pending = 0;
    at_barrier_[w] = ready_[w] = 0;
    priority_[w] = w;
    make_ready(w, warps_[w].alive);
  }
  if (order_ == Order::random) {  // the same for a block whichever OS thread runs it
    random_state_ = (options().seed * 0x9e3779b97f4a7c15ull ^ (block + 1) * 0xbf58476d1ce4e5b9ull) | 1u;
    for (int i = 0; i < 4; ++i) random();
    for (std::uint32_t i = num_warps_; i > 1; --i) std::swap(priority_[i - 1], priority_[random() % i]);
  }
  shared.begin_block(launch_.shared_bytes);
  races.begin_block();
  const bool record = work != nullptr || (options().profile && block == 0);
  if (record) traffic.begin_block(n, work);
  run_threads();
  if (record) traffic.end_block();
  if (work != nullptr) work->static_shared_bytes = shared.static_bytes();
  if (const std::string unfinished = warpgroups.unfinished(); !unfinished.empty())
    throw SimError(ErrorKind::wgmma, place_of_failure() + ": found at the end of the block: " + unfinished);
  if (const std::string unfinished = tensor_copies.unfinished(); !unfinished.empty())
    throw SimError(ErrorKind::cp_async, place_of_failure() + ": found at the end of the block: " + unfinished);
  if (const std::string overrun = shared.check_redzones(); !overrun.empty())
    throw SimError(
        ErrorKind::overrun, place_of_failure() + ": found at the end of the block: write outside an array, " + overrun);
}

void Engine::run_threads() {
  in_kernel_ = true;
  fibers_.switch_to(next_fiber());
  in_kernel_ = false;
  current_ = nullptr;
  if (!error_) return;
  fibers_.reset();
  traffic.abandon_block();
  races.forget_pending_copies();
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void Engine::fiber_body() {
  Engine& e = engine();
  e.fibers_.entered();
  for (;;) {
    Fiber* self = e.fibers_.current();
    Thread& thread = e.threads_[self->thread];
    thread.fiber = self;
    thread.status = Status::running;
    e.current_ = &thread;
    sim::threadIdx = thread.index;
    try {
      e.launch_.call(e.launch_.context);
      e.finish(thread);
      while (e.ready_warps_ == 0 && e.num_live_ > 0 && e.tensor_copies.let_one_arrive()) {
      }
    } catch (...) {
      e.error_ = std::current_exception();
    }
    if (e.error_) e.fibers_.switch_to(&e.fibers_.main());
    Thread* next = e.next();
    if (next != nullptr && next->fiber == nullptr) {  // begin it on this stack: threads that never wait never switch
      self->thread = next->number;
      continue;
    }
    Fiber* target = next != nullptr ? next->fiber : &e.fibers_.main();
    if (next == nullptr && e.num_live_ > 0)
      e.error_ = std::make_exception_ptr(SimError(
          ErrorKind::deadlock,
          place_of_failure() + ": deadlock: a thread finished and no other can continue\n" + e.describe_threads()));
    e.fibers_.give_back(self);
    e.fibers_.switch_to(target);
    // Taken from the pool again: `self->thread` is the thread to begin.
  }
}

Thread* Engine::next() {
  if (ready_warps_ == 0) return nullptr;
  std::uint32_t w, lane;
  if (order_ == Order::forward) {
    w = static_cast<std::uint32_t>(std::countr_zero(ready_warps_));
    lane = static_cast<std::uint32_t>(std::countr_zero(ready_[w]));
  } else if (order_ == Order::reverse) {
    w = 31 - static_cast<std::uint32_t>(std::countl_zero(ready_warps_));
    lane = 31 - static_cast<std::uint32_t>(std::countl_zero(ready_[w]));
  } else {
    std::uint32_t i = 0;
    while ((ready_warps_ >> priority_[i] & 1u) == 0) ++i;
    w = priority_[i];
    const std::uint32_t r = random(), start = r & 31u;
    lane = (static_cast<std::uint32_t>(std::countr_zero(std::rotr(ready_[w], static_cast<int>(start)))) + start) & 31u;
    if ((r >> 8) % 64 == 0) std::swap(priority_[0], priority_[(r >> 16) % num_warps_]);
  }
  ready_[w] &= ~(1u << lane);
  if (ready_[w] == 0) ready_warps_ &= ~(1u << w);
  return &threads_[w * 32 + lane];
}

unsigned Engine::choose(unsigned n) {
  return order_ == Order::forward ? 0 : order_ == Order::reverse ? n - 1 : random() % n;
}

Fiber* Engine::next_fiber() {
  Thread* thread = next();
  if (thread == nullptr) return nullptr;
  if (thread->fiber != nullptr) return thread->fiber;
  Fiber* fiber = fibers_.take();
  fiber->thread = thread->number;
  return fiber;
}

void Engine::suspend(Status status, const Site& site) {
  Thread& thread = *current_;
  thread.status = status;
  thread.site = site;
  while (ready_warps_ == 0 && tensor_copies.let_one_arrive()) {
  }
  Fiber* target = next_fiber();
  if (target == nullptr)
    fail(ErrorKind::deadlock, "deadlock: no thread of the block can continue\n" + describe_threads(), site);
  if (target != fibers_.current()) fibers_.switch_to(target);  // a tensor copy may have made this thread ready itself
  thread.status = Status::running;
  current_ = &thread;
  sim::threadIdx = thread.index;
}

void Engine::abandon_block(std::exception_ptr error) {
  error_ = std::move(error);
  fibers_.switch_to(&fibers_.main());
  __builtin_unreachable();
}

void Engine::finish(Thread& thread) {
  if (!thread.copies.empty())
    fail(
        ErrorKind::cp_async,
        "thread finished with " + std::to_string(thread.copies.size()) +
            " asynchronous copies it never waited for, the first issued at " + text_of(thread.copies[0].site),
        Site{});
  thread.status = Status::finished;
  --num_live_;
  ++num_finished_;
  Warp& warp = warps_[thread.warp()];
  warp.alive &= ~(1u << thread.lane());
  for (std::uint32_t i = 0; i < warp.num_pending; ++i)
    if (const PendingCollective& p = warp.pending[i]; p.mask >> thread.lane() & 1u)
      fail(
          ErrorKind::divergent_warp,
          std::string("thread finished while its warp waits for it in ") + p.what->name + " at " + text_of(p.site),
          Site{});
  if (num_arrived_ > 0)
    fail(
        ErrorKind::early_exit,
        "thread finished while others wait at __syncthreads " + text_of(barrier_site_) + "\n" + describe_threads(),
        Site{});
}

int Engine::barrier(Reduce op, bool predicate, const Site& site) {
  if (num_finished_ > 0)
    fail(
        ErrorKind::early_exit, "__syncthreads reached after other threads of the block finished\n" + describe_threads(),
        site);
  if (num_arrived_ == 0) {
    barrier_site_ = site;
    barrier_value_ = predicate;
  } else {
    if (!same_site(barrier_site_, site))
      fail(
          ErrorKind::divergent_barrier,
          "divergent __syncthreads: others wait at " + text_of(barrier_site_) + "\n" + describe_threads(), site);
    if (op == Reduce::count) barrier_value_ += predicate;
    if (op == Reduce::all) barrier_value_ &= static_cast<int>(predicate);
    if (op == Reduce::any) barrier_value_ |= static_cast<int>(predicate);
  }
  if (++num_arrived_ == num_live_) {
    release_barrier();
  } else {
    at_barrier_[current_->warp()] |= 1u << current_->lane();
    suspend(Status::at_barrier, site);
  }
  return barrier_result_;
}

void Engine::release_barrier() {
  barrier_result_ = barrier_value_;
  num_arrived_ = 0;
  races.barrier();
  for (std::uint32_t w = 0; w < num_warps_; ++w) {
    if (at_barrier_[w] == 0) continue;
    make_ready(w, at_barrier_[w]);
    at_barrier_[w] = 0;
  }
}

std::string Engine::describe_threads() const {
  std::map<std::string, std::vector<std::uint32_t>> groups;
  for (const Thread& t : threads_) {
    std::string what;
    switch (t.status) {
      case Status::not_started: what = "not started"; break;
      case Status::running: what = "running"; break;
      case Status::at_barrier: what = "waiting at __syncthreads " + text_of(t.site); break;
      case Status::in_collective: what = "waiting for its warp at " + text_of(t.site); break;
      case Status::at_mbarrier: what = "waiting at an mbarrier " + text_of(t.site); break;
      case Status::finished: what = "finished"; break;
    }
    groups[what].push_back(t.number);
  }
  std::string table = barriers.describe();
  for (const auto& [what, numbers] : groups) {
    table += "  " + std::to_string(numbers.size()) + " threads " + what + ":";
    int ranges = 0;
    for (std::size_t i = 0; i < numbers.size(); ++ranges) {
      std::size_t last = i;
      while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
      if (ranges == 8) {
        table += " ...";
        break;
      }
      table += " " + std::to_string(numbers[i]) + (last > i ? "-" + std::to_string(numbers[last]) : "");
      i = last + 1;
    }
    table += "\n";
  }
  return table;
}

}  // namespace avid::kernels::simulator
