// train/tensorboard.h -- scalars as TensorBoard event files, written by hand: TFRecord around small protobuf messages
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace avid::train {

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78).
std::uint32_t crc32c(std::string_view bytes);

/// One TFRecord frame: u64 length | masked crc of the length | data | masked crc of the data, all little-endian,
/// with mask(c) = rotr(c, 15) + 0xa282ead8.
std::string tfrecord_frame(std::string_view data);

/// The frame every event file starts with: Event{wall_time, file_version = "brain.Event:2"}.
std::string tensorboard_header(double unix_time);

/// A frame with Event{wall_time, step, summary{value{tag, simple_value} ...}}.
std::string tensorboard_scalars(
    double unix_time, std::int64_t step, std::span<const std::pair<std::string, double>> values);

}  // namespace avid::train
