// tests/train/train_program.h -- `avid train` as a program of its own, on configs/tiny
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {

inline const std::string kConfigs = std::string(AVID_SOURCE_DIR) + "/configs/tiny/";

/// `avid train` with these words. One thread: the tests share the machine with others.
inline std::vector<std::string> command(std::vector<std::string> words, const std::vector<std::string>& set = {}) {
  words.insert(words.begin(), {AVID_PROGRAM, "train", "--threads", "1"});
  for (const std::string& s : set) words.insert(words.end(), {"--set", s});
  return words;
}

/// A new run of a configuration's name.
inline std::vector<std::string> fresh(
    const std::string& config, const std::filesystem::path& run, const std::vector<std::string>& set = {}) {
  return command({"--config", kConfigs + config, "--run", run.string()}, set);
}

/// Settings of a run that is short beside its own start: one level, frames of 4x4, the smaller file. `set` wins.
inline std::vector<std::string> small(std::vector<std::string> set = {}) {
  set.insert(
      set.begin(), {std::string("data.train=") + AVID_SOURCE_DIR + "/data/samples/coinrun32-heldout.h5", "data.size=4",
                    "data.frames=2", "model.multipliers=[1]"});
  return set;
}

/// log.jsonl without what a clock or another process's memory decides.
inline std::vector<nlohmann::json> log_of(const std::filesystem::path& run) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(run / "log.jsonl");
  for (std::string line; std::getline(in, line);) {
    lines.push_back(nlohmann::json::parse(line));
    for (const char* key : {"time", "clips_per_s", "memory_mib"}) lines.back().erase(key);
  }
  return lines;
}

/// The exit code; a check fails if anything but messages was printed.
inline int run_to_end(const std::vector<std::string>& words, std::string* messages = nullptr) {
  const ProgramResult result = run_program(words);
  if (messages != nullptr)
    *messages = result.err;
  else if (result.exit_code != 0)
    MESSAGE(result.err);
  CHECK(result.out.empty());
  return result.exit_code;
}

}  // namespace avid::test
