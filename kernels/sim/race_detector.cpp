// kernels/sim/race_detector.cpp -- see race_detector.h
#include "kernels/sim/race_detector.h"

#include <dlfcn.h>

#include <algorithm>
#include <new>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {

void RaceDetector::begin_launch() {
  if (!have_race_hooks()) return;
  if (bytes_ == nullptr) {
    bytes_.reset(static_cast<Byte*>(std::calloc(SharedMemory::kArenaBytes, sizeof(Byte))));
    if (bytes_ == nullptr) throw std::bad_alloc();
    clocks_.resize(32);
    Dl_info info{};
    if (dladdr(reinterpret_cast<void*>(&have_race_hooks), &info) != 0)
      program_ = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  }
}

void RaceDetector::begin_block() {
  first_epoch_of_block_ = ++epoch_;
  seen_.clear();
  now_.clear();
  tensor_copies_.clear();
}

void RaceDetector::barrier() {
  ++epoch_;
  if (tensor_copies_.empty()) return;  // between threads the epoch tells; of copies everyone knows now what one knew
  Clock all;
  for (const Clock& seen : seen_) join(all, seen);
  for (Clock& seen : seen_) join(seen, all);
}

void RaceDetector::use_clocks() {
  if (bytes_ == nullptr || !seen_.empty()) return;
  const sim::dim3 block = engine().launch().block;
  const std::size_t n = std::size_t{block.x} * block.y * block.z;
  seen_.assign(n, Clock(n, 0));
  now_.assign(n, 1);
}

void RaceDetector::join(Clock& to, const Clock& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}

void RaceDetector::release(const Thread& thread, Clock& to) {
  if (seen_.empty()) return;
  join(to, seen_[thread.number]);
  to[thread.number] = now_[thread.number]++;
}

void RaceDetector::acquire(const Thread& thread, const Clock& from) {
  if (!seen_.empty()) join(seen_[thread.number], from);
}

int RaceDetector::writer_without_proxy_fence(const void* p, unsigned num_bytes) const {
  const std::size_t begin = engine().shared.offset(p);
  for (std::size_t i = begin; i < begin + num_bytes; ++i) {
    const Touch& write = bytes_[i].write;
    if (write.epoch >= first_epoch_of_block_ && !by_tensor_copy(write) &&
        engine().thread(write.thread).proxy_fences == write.fences)
      return write.thread;
  }
  return -1;
}

void RaceDetector::warp_barrier(unsigned warp, std::uint32_t lanes, bool whole) {
  if (bytes_ == nullptr) return;
  WarpClock& clock = clocks_[warp];
  const std::uint32_t now = ++clock.now;
  if (!seen_.empty()) {  // what one lane knows, all do
    Clock all;
    for (std::uint32_t i = 0; i < 32; ++i)
      if ((lanes >> i & 1u) != 0) release(engine().thread(warp * 32 + i), all);
    for (std::uint32_t i = 0; i < 32; ++i)
      if ((lanes >> i & 1u) != 0) seen_[warp * 32 + i] = all;
  }
  if (whole) {
    clock.all = now;
    return;
  }
  for (int i = 0; i < 32; ++i)
    for (int j = 0; j < 32; ++j)
      if ((lanes >> i & 1u) != 0 && (lanes >> j & 1u) != 0) clock.pair[i][j] = now;
}

bool RaceDetector::has_seen(std::uint32_t thread, const Touch& past) const {
  const std::size_t i = by_tensor_copy(past) ? now_.size() + (past.thread & ~kTensorCopy) : past.thread;
  return i < seen_[thread].size() && past.time <= seen_[thread][i];
}

std::string RaceDetector::who(const Touch& touch) const {
  if (!by_tensor_copy(touch)) return "thread " + std::to_string(touch.thread);
  return "the tensor copy of thread " + std::to_string(tensor_copies_[touch.thread & ~kTensorCopy].thread);
}

bool RaceDetector::conflicts(const Touch& past, const Thread& thread, bool atomic) const {
  // Barriers of the block do not wait for tensor copies.
  if (by_tensor_copy(past)) return past.epoch >= first_epoch_of_block_ && !has_seen(thread.number, past);
  if (past.epoch != epoch_ || past.thread == thread.number || (atomic && past.atomic)) return false;
  if (!seen_.empty() && has_seen(thread.number, past)) return false;
  if (past.thread / 32 != thread.warp()) return true;
  const WarpClock& clock = clocks_[thread.warp()];
  return past.warp_time >= clock.all && past.warp_time >= clock.pair[thread.lane()][past.thread & 31];
}

std::uint32_t RaceDetector::pack(std::uintptr_t place) const {
  return (place & kPlaceIsSite) != 0 ? static_cast<std::uint32_t>(place) | 0x80000000u
                                     : static_cast<std::uint32_t>(place - program_) & 0x7fffffffu;
}
std::uintptr_t RaceDetector::unpack(std::uint32_t place) const {
  return (place & 0x80000000u) != 0 ? kPlaceIsSite | (place & 0x7fffffffu) : program_ + place;
}

RaceDetector::Touch RaceDetector::touch(const Thread& thread, std::uintptr_t place, bool atomic) const {
  return {
      epoch_,
      clocks_[thread.warp()].now,
      pack(place),
      now_.empty() ? 1 : now_[thread.number],
      thread.proxy_fences,
      static_cast<std::uint16_t>(thread.number),
      atomic};
}

void RaceDetector::access(
    std::uintptr_t address, unsigned num_bytes, Access kind, const Thread& thread, std::uintptr_t place) {
  Engine& e = engine();
  const bool write = kind != Access::read, atomic = kind == Access::atomic;
  const std::size_t begin = e.shared.offset(reinterpret_cast<const void*>(address));
  for (std::size_t i = begin; i < begin + num_bytes && i < SharedMemory::kArenaBytes; ++i) {
    Byte& byte = bytes_[i];
    const auto array = [&] { return e.shared.describe(e.shared.at(i)); };
    const auto race = [&](const Touch& past, const char* what, const char* before) {
      fail(
          ErrorKind::race,
          std::string("race, no barrier between: ") + what + " by thread " + std::to_string(thread.number) + " at " +
              source_line(place) + " and " + before + " by " + who(past) + " at " + source_line(unpack(past.place)) +
              " on " + array(),
          Site{});
    };
    if (byte.copy_pending && byte.write.epoch >= first_epoch_of_block_)
      fail(
          ErrorKind::cp_async,
          std::string(write ? "write to" : "read of") +
              " the destination of an asynchronous copy before its wait: " + array() + " at " + source_line(place) +
              ", copy issued by " + who(byte.write) + " at " + source_line(unpack(byte.write.place)),
          Site{});
    if (conflicts(byte.write, thread, atomic)) race(byte.write, write ? "write" : "read", "write");
    if (write) {
      for (const Touch& read : byte.read)
        if (conflicts(read, thread, atomic)) race(read, "write", "read");
      byte.write = touch(thread, place, atomic);
    } else {
      if (byte.write.epoch < first_epoch_of_block_)
        fail(ErrorKind::uninitialised, "read of uninitialised " + array() + " at " + source_line(place), Site{});
      // Two readers are remembered: this thread's last read, else the older slot.
      const int slot = byte.read[0].thread == thread.number || byte.read[0].epoch != epoch_ ? 0
                       : byte.read[1].thread == thread.number || byte.read[1].epoch != epoch_
                           ? 1
                           : static_cast<int>(thread.number & 1);
      byte.read[slot] = touch(thread, place, false);
    }
  }
}

void RaceDetector::begin_copy(const void* dst, unsigned num_bytes, const Thread& thread, const Site& site) {
  if (bytes_ == nullptr || !options().detect_races) return;
  access(reinterpret_cast<std::uintptr_t>(dst), num_bytes, Access::write, thread, place_of(site));
  const std::size_t begin = engine().shared.offset(dst);
  for (std::size_t i = begin; i < begin + num_bytes; ++i) bytes_[i].copy_pending = true;
}

void RaceDetector::end_copy(const void* dst, unsigned num_bytes, const Thread& thread, const Site& site) {
  if (bytes_ == nullptr || !options().detect_races) return;
  const std::size_t begin = engine().shared.offset(dst);
  for (std::size_t i = begin; i < begin + num_bytes; ++i) bytes_[i].copy_pending = false;
  access(reinterpret_cast<std::uintptr_t>(dst), num_bytes, Access::write, thread, place_of(site));
}

void RaceDetector::begin_tensor_copy(
    const void* dst, unsigned num_bytes, const Thread& thread, const Site& site, std::uint32_t barrier) {
  if (bytes_ == nullptr || !options().detect_races) return;
  access(reinterpret_cast<std::uintptr_t>(dst), num_bytes, Access::write, thread, place_of(site));
  if (tensor_copies_.size() <= barrier) tensor_copies_.resize(barrier + 1);
  TensorCopyClock& clock = tensor_copies_[barrier];
  clock.thread = thread.number;
  Touch by_copy = touch(thread, place_of(site), false);
  by_copy.thread = static_cast<std::uint16_t>(kTensorCopy | barrier);
  by_copy.time = ++clock.begun;
  const std::size_t begin = engine().shared.offset(dst);
  for (std::size_t i = begin; i < begin + num_bytes; ++i) {
    bytes_[i].write = by_copy;
    bytes_[i].copy_pending = true;
  }
}

void RaceDetector::end_tensor_copy(const void* dst, unsigned num_bytes) {
  if (bytes_ == nullptr || !options().detect_races) return;
  const std::size_t begin = engine().shared.offset(dst);
  for (std::size_t i = begin; i < begin + num_bytes; ++i) bytes_[i].copy_pending = false;
}

void RaceDetector::release_tensor_copy(std::uint32_t barrier, Clock& to) {
  if (bytes_ == nullptr || tensor_copies_.size() <= barrier) return;
  // A phase is complete when the last of its copies is here, and the next phase's begin after that.
  if (to.size() <= now_.size() + barrier) to.resize(now_.size() + barrier + 1);
  to[now_.size() + barrier] = tensor_copies_[barrier].begun;
}

void RaceDetector::forget_pending_copies() {
  if (bytes_ == nullptr) return;
  for (std::size_t i = 0; i < SharedMemory::kArenaBytes; ++i) bytes_[i].copy_pending = false;
}

}  // namespace avid::kernels::simulator
