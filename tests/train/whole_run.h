// tests/train/whole_run.h -- a run from its first update to its last
#pragma once

#include <filesystem>

#include "tests/doctest.h"
#include "train/trainer.h"

namespace avid::test {

/// Trains what `config` says into the new folder `path`; a check fails unless the run finishes.
inline void run_whole(const std::filesystem::path& path, const train::TrainConfig& config) {
  train::RunInfo info = train::current_run_info();
  info.seed = config.seed;
  info.threads = 1;
  info.inputs = train::input_digests(config);
  train::RunFolder folder = train::RunFolder::create(path, config, info);
  CHECK(train::Trainer(folder, {}).run() == train::TrainEnd::finished);
}

}  // namespace avid::test
