// data/loader.cpp -- reads windows into tensors, and the threads that do so ahead of time
#include "data/loader.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "data/frame_ops.h"
#include "tensor/error.h"

namespace avid::data {
namespace {

WindowOptions window_options(const LoaderOptions& o) {
  check<ConfigError>(o.batch >= 1, "data: batch: expected >= 1, got {}", o.batch);
  check<ConfigError>(o.context >= 1, "data: context: expected >= 1 frame, got {}", o.context);
  check<ConfigError>(o.targets >= 1, "data: targets: expected >= 1 frame, got {}", o.targets);
  check<ConfigError>(o.workers >= 0 && o.workers <= 256, "data: workers: expected 0..256, got {}", o.workers);
  check<ConfigError>(o.ahead >= 1, "data: ahead: expected >= 1, got {}", o.ahead);
  return {.num_frames = o.context + o.targets, .resets = o.resets, .windows = o.windows};
}

/// Over all runs, or the first `runs` of them.
WindowSampler make_sampler(const EpisodeStore& store, const LoaderOptions& o) {
  std::span<const Run> runs = store.runs();
  std::span<const Segment> segments = store.segments();
  check<ConfigError>(
      o.runs >= 0 && o.runs <= static_cast<std::int64_t>(runs.size()),
      "data: levels: expected 0 to {} (there are {}), got {}", runs.size(), runs.size(), o.runs);
  if (o.runs > 0) {
    runs = runs.first(static_cast<std::size_t>(o.runs));
    std::size_t count = 0;  // segments stand in the order of their runs
    while (count < segments.size() && segments[count].run < o.runs) ++count;
    segments = segments.first(count);
  }
  return WindowSampler(runs, segments, store.resets_known(), window_options(o));
}

}  // namespace

/// Batches in the making. Step numbers are handed out in order; a finished batch waits under its number.
struct Loader::Workers {
  Workers(const Loader& loader, std::uint64_t first_step, int count, std::uint64_t ahead)
      : next_in(first_step), next_out(first_step), ahead(ahead) {
    for (int i = 0; i < count; ++i) threads.emplace_back([this, &loader] { work(loader); });
  }
  ~Workers() {
    {
      const std::lock_guard lock(mutex);
      stopped = true;
    }
    changed.notify_all();
    for (std::thread& t : threads) t.join();
  }

  void work(const Loader& loader) {
    while (true) {
      std::uint64_t step = 0;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stopped || next_in < next_out + ahead; });
        if (stopped) return;
        step = next_in++;
      }
      Outcome outcome;
      try {
        outcome.batch = loader.batch_at(step);
      } catch (...) {
        outcome.error = std::current_exception();
      }
      {
        const std::lock_guard lock(mutex);
        ready.emplace(step, std::move(outcome));
      }
      changed.notify_all();
    }
  }

  Batch take() {
    Outcome outcome;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return ready.contains(next_out); });
      outcome = std::move(ready.extract(next_out).mapped());
      ++next_out;
    }
    changed.notify_all();
    if (outcome.error) std::rethrow_exception(outcome.error);
    return std::move(outcome.batch);
  }

  struct Outcome {
    Batch batch;
    std::exception_ptr error;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::uint64_t, Outcome> ready;
  std::uint64_t next_in, next_out, ahead;
  bool stopped = false;
  std::vector<std::thread> threads;
};

Loader::Loader(std::shared_ptr<const EpisodeStore> store, const LoaderOptions& options)
    : store_(std::move(store)), options_(options), sampler_(make_sampler(*store_, options)) {
  if (options.size == 0) return;
  const std::int64_t height = store_->height(), width = store_->width();
  check<ConfigError>(
      options.size > 0 && height == width && height % options.size == 0,
      "data: size: expected a divisor of the stored {}x{}, got {}", height, width, options.size);
  factor_ = height / options.size;
}

Loader::~Loader() = default;

Batch Loader::batch_at(std::uint64_t step) const {
  std::vector<std::int64_t> starts(static_cast<std::size_t>(options_.batch));
  for (std::size_t i = 0; i < starts.size(); ++i) starts[i] = sampler_.draw(options_.seed, step, i);
  Batch batch = read_windows(starts);
  batch.step = step;
  return batch;
}

Batch Loader::read_windows(std::span<const std::int64_t> starts) const {
  const auto B = static_cast<std::int64_t>(starts.size());
  const std::int64_t K = options_.context, T = options_.targets, A = store_->action_width();
  Batch batch;
  batch.starts.assign(starts.begin(), starts.end());
  batch.frames = Tensor::empty({B, K + T, height(), width(), 3}, DType::u8);  // [B,K+T,H,W,3]
  batch.actions = A == 0 ? Tensor::empty({B, T}, DType::i64) : Tensor::zeros({B, T, A}, DType::f32);
  const auto window_bytes = static_cast<std::size_t>((K + T) * height() * width() * 3);
  std::vector<std::uint8_t> stored(factor_ == 1 ? 0 : static_cast<std::size_t>(K + T) * store_->frame_bytes());
  for (std::int64_t b = 0; b < B; ++b) {
    const std::int64_t start = starts[static_cast<std::size_t>(b)];
    const std::span out(batch.frames.data<std::uint8_t>() + static_cast<std::size_t>(b) * window_bytes, window_bytes);
    if (factor_ == 1) {
      store_->read_frames(start, K + T, out);
    } else {
      store_->read_frames(start, K + T, stored);
      box_downscale(stored, store_->height(), store_->width(), factor_, out);
    }
    for (std::int64_t i = 0; i < T; ++i) {
      const std::int64_t cause = start + K - 1 + i;  // the action applied while the frame before target i was visible
      if (A == 0) {
        batch.actions.data<std::int64_t>()[b * T + i] = store_->action(cause);
      } else {
        const auto values = store_->action_vector(cause);
        std::copy(values.begin(), values.end(), batch.actions.data<float>() + (b * T + i) * batch.actions.pitch());
      }
    }
  }
  return batch;
}

void Loader::start(std::uint64_t step) {
  workers_.reset();
  workers_ = std::make_unique<Workers>(*this, step, options_.workers, static_cast<std::uint64_t>(options_.ahead));
}

Batch Loader::next() {
  check<Error>(workers_ != nullptr, "data: loader: next() before start()");
  if (options_.workers == 0) return batch_at(workers_->next_out++);
  return workers_->take();
}

void Loader::stop() { workers_.reset(); }

}  // namespace avid::data
