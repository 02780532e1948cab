// data/loader.h -- batches of windows, read ahead by worker threads, in an order that depends only on (seed, step)
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/episode_store.h"
#include "data/window_sampler.h"
#include "tensor/tensor.h"

namespace avid::data {

/// One batch of windows of K context and T target frames.
struct Batch {
  std::uint64_t step = 0;
  Tensor frames;   ///< u8 [B,K+T,H,W,3], 0..255
  Tensor actions;  ///< i64 [B,T] (or f32 [B,T,A]): target i = frame K + i came about by action a[K - 1 + i]
  std::vector<std::int64_t> starts;  ///< [B] global number of each window's first frame
};

struct LoaderOptions {
  std::int64_t batch = 8;
  std::int64_t context = 2;  ///< K
  std::int64_t targets = 8;  ///< T
  std::int64_t size = 0;     ///< frames of this height and width (box average); 0 = as stored
  ResetPolicy resets = ResetPolicy::exclude;
  WindowSet windows = WindowSet::full;
  std::int64_t runs = 0;  ///< only windows of the first so many runs (recorded levels); 0 = all
  std::uint64_t seed = 0;
  int workers = 1;  ///< 0: batches are read when asked for
  int ahead = 4;    ///< batches kept ready
};

/// Reads batches. batch_at(step) is random access, so a resumed run needs no state but the step; start() and next()
/// give the same batches in order, prepared by the workers. Neither the number of workers nor `ahead` changes any
/// number.
///
/// Errors   those of WindowSampler; ConfigError when `size` does not divide the stored size; a worker's FileError comes
///          out of the next() that would have returned its batch.
/// Threads  one thread calls start(), next() and stop(); batch_at() and read_windows() may be called from any.
class Loader {
 public:
  Loader(std::shared_ptr<const EpisodeStore> store, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  Batch batch_at(std::uint64_t step) const;
  /// The windows that start at these frames (evaluation, pictures); Batch::step is 0.
  Batch read_windows(std::span<const std::int64_t> starts) const;

  /// Begins reading ahead from `step`; an earlier start() is forgotten.
  void start(std::uint64_t step);
  /// The batch of the next step.
  Batch next();
  /// Ends the workers; safe at any time.
  void stop();

  const WindowSampler& sampler() const { return sampler_; }
  const LoaderOptions& options() const { return options_; }
  const EpisodeStore& store() const { return *store_; }
  /// Height and width of the frames it gives.
  std::int64_t height() const { return store_->height() / factor_; }
  std::int64_t width() const { return store_->width() / factor_; }

 private:
  struct Workers;

  std::shared_ptr<const EpisodeStore> store_;
  LoaderOptions options_;
  WindowSampler sampler_;
  std::int64_t factor_ = 1;
  std::unique_ptr<Workers> workers_;
};

}  // namespace avid::data
