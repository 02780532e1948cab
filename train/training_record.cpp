// train/training_record.cpp -- three numbers as metadata and back
#include "train/training_record.h"

#include <charconv>
#include <cmath>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/tensor_file.h"

namespace avid::train {
namespace {

constexpr const char *kFlop = "avid.training_flop", *kClips = "avid.training_clips", *kFrames = "avid.training_frames";

double number_at(const TensorFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  check<FileError>(found != file.metadata().end(), "{}: metadata: {} is missing", file.path().string(), key);
  const std::string& text = found->second;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check<FileError>(
      error == std::errc() && end == text.data() + text.size() && std::isfinite(value) && value >= 0 && value < 1e30,
      "{}: metadata: {}: expected a number, got '{}'", file.path().string(), key, printable(text));
  return value;
}

std::int64_t count_at(const TensorFile& file, const char* key) {
  const double value = number_at(file, key);
  check<FileError>(
      value == std::floor(value) && value < 1e15, "{}: metadata: {}: expected a count, got {}", file.path().string(),
      key, value);
  return static_cast<std::int64_t>(value);
}

}  // namespace

void add_training_record(std::map<std::string, std::string>& metadata, const TrainingRecord& record) {
  metadata[kFlop] = fmt::format("{:.9g}", record.flop);
  metadata[kClips] = std::to_string(record.clips);
  metadata[kFrames] = std::to_string(record.frames);
}

std::optional<TrainingRecord> read_training_record(const std::filesystem::path& weights) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(weights, ignored)) return std::nullopt;
  const auto file = open_tensor_file(weights);
  if (!file->metadata().contains(kFlop)) return std::nullopt;
  return TrainingRecord{
      .flop = number_at(*file, kFlop), .clips = count_at(*file, kClips), .frames = count_at(*file, kFrames)};
}

}  // namespace avid::train
