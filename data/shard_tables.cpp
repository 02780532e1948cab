// data/shard_tables.cpp -- reading, writing and checking the tables of a shard
#include "data/shard_tables.h"

#include <cmath>
#include <limits>

#include "data/frame_ops.h"
#include "tensor/error.h"

namespace avid::data {
namespace {

template <class Elem>
constexpr H5Type h5_type() {
  if constexpr (std::is_same_v<Elem, std::uint8_t>) return H5Type::u8;
  if constexpr (std::is_same_v<Elem, std::int32_t>) return H5Type::i32;
  if constexpr (std::is_same_v<Elem, std::uint32_t>) return H5Type::u32;
  if constexpr (std::is_same_v<Elem, std::uint64_t>) return H5Type::u64;
  if constexpr (std::is_same_v<Elem, float>) return H5Type::f32;
}

template <class Elem>
void write_column(H5File& file, const char* name, const std::vector<Elem>& values) {
  file.write(name, h5_type<Elem>(), {values.size()}, values.data());
}

/// A one-dimensional array of this element type; any length up to `limit`, or exactly `limit`.
template <class Elem>
std::vector<Elem> read_column(
    const H5File& file, const std::string& path, const char* name, std::uint64_t limit, bool exactly) {
  const H5Extent extent = file.extent(name);
  check<FileError>(extent.type == h5_type<Elem>(), "{}: {}: wrong element type", path, name);
  check<FileError>(
      extent.dims.size() == 1 && (exactly ? extent.dims[0] == limit : extent.dims[0] <= limit),
      "{}: {}: expected [{}{}], got {}", path, name, exactly ? "" : "<= ", limit, extent.dims_text());
  std::vector<Elem> values(extent.dims[0]);
  file.read(name, h5_type<Elem>(), values.data(), values.size());
  return values;
}

}  // namespace

void ShardTables::add_run(std::int32_t level, std::span<const std::uint8_t> run_first) {
  check<ShapeError>(
      !run_first.empty() && run_first.size() <= std::numeric_limits<std::uint32_t>::max() && run_first[0] == 1,
      "episode store: level {}: expected a run whose first frame is marked as one", level);
  const std::uint64_t offset = first.size();
  const auto run = static_cast<std::uint32_t>(run_level.size());
  run_level.push_back(level);
  run_offset.push_back(offset);
  run_length.push_back(static_cast<std::uint32_t>(run_first.size()));
  for (std::size_t t = 0; t < run_first.size(); ++t) {
    if (run_first[t] == 1) {
      segment_offset.push_back(offset + t);
      segment_length.push_back(0);
      segment_run.push_back(run);
    }
    ++segment_length.back();
  }
  first.insert(first.end(), run_first.begin(), run_first.end());
}

void ShardTables::validate_values(const std::string& path, int num_actions, std::uint64_t begin) const {
  for (std::uint64_t i = begin; i < actions.size(); ++i)
    check<ConfigError>(
        actions[i] < num_actions, "{}: actions: frame {}: expected 0..{}, got {}", path, i, num_actions - 1,
        actions[i]);
  for (std::uint64_t i = begin * static_cast<std::uint64_t>(action_width); i < float_actions.size(); ++i)
    check<ConfigError>(
        std::isfinite(float_actions[i]),
        "{}: actions: frame {}: expected finite numbers, got {} | clean the data first", path,
        i / static_cast<std::uint64_t>(action_width), float_actions[i]);
  for (std::uint64_t i = begin; i < rewards.size(); ++i)
    check<ConfigError>(
        std::isfinite(rewards[i]), "{}: rewards: frame {}: expected a finite number, got {} | clean the data first",
        path, i, rewards[i]);
  for (std::uint64_t i = begin; i < first.size(); ++i)
    check<FileError>(first[i] <= 1, "{}: first: frame {}: expected 0 or 1, got {}", path, i, first[i]);
}

void ShardTables::validate_structure(const std::string& path) const {
  check<FileError>(
      run_level.size() == run_offset.size() && run_level.size() == run_length.size() && !run_level.empty(),
      "{}: runs: expected level, offset and length of at least one run, got {}, {} and {}", path, run_level.size(),
      run_offset.size(), run_length.size());
  std::uint64_t next = 0;
  for (std::size_t r = 0; r < run_level.size(); ++r) {
    check<FileError>(
        run_offset[r] == next && run_length[r] > 0 && run_length[r] <= num_frames() - next,
        "{}: runs: run {} (level {}): expected frames from {} of {}, got {}+{}", path, r, run_level[r], next,
        num_frames(), run_offset[r], run_length[r]);
    check<FileError>(
        first[next] == 1, "{}: first: run {} (level {}): expected its first frame to be marked", path, r, run_level[r]);
    next += run_length[r];
  }
  check<FileError>(next == num_frames(), "{}: runs: expected to cover {} frames, got {}", path, num_frames(), next);

  check<FileError>(
      segment_offset.size() == segment_length.size() && segment_offset.size() == segment_run.size(),
      "{}: segments: expected offset, length and run of each, got {}, {} and {}", path, segment_offset.size(),
      segment_length.size(), segment_run.size());
  std::size_t s = 0;
  for (std::size_t r = 0; r < run_level.size(); ++r) {
    const std::uint64_t end = run_offset[r] + run_length[r];
    for (std::uint64_t begin = run_offset[r]; begin < end; ++s) {
      std::uint64_t stop = begin + 1;
      while (stop < end && first[stop] == 0) ++stop;
      check<FileError>(
          s < segment_offset.size() && segment_offset[s] == begin && segment_length[s] == stop - begin &&
              segment_run[s] == r,
          "{}: segments: segment {}: expected frames {}..{} of run {} as the first flags say", path, s, begin, stop, r);
      begin = stop;
    }
  }
  check<FileError>(s == segment_offset.size(), "{}: segments: expected {}, got {}", path, s, segment_offset.size());
}

std::uint64_t ShardTables::checksum() const {
  Checksum sum;
  sum.update(actions).update_values(std::span(float_actions)).update_values(std::span(rewards)).update(first);
  sum.update_values(std::span(run_level)).update_values(std::span(run_offset)).update_values(std::span(run_length));
  sum.update_values(std::span(segment_offset)).update_values(std::span(segment_length));
  sum.update_values(std::span(segment_run));
  return sum.value();
}

void ShardTables::write(H5File& file) const {
  if (action_width > 0)
    file.write("/actions", H5Type::f32, {num_frames(), static_cast<std::uint64_t>(action_width)}, float_actions.data());
  else
    write_column(file, "/actions", actions);
  write_column(file, "/rewards", rewards);
  write_column(file, "/first", first);
  file.make_group("/runs");
  write_column(file, "/runs/level", run_level);
  write_column(file, "/runs/offset", run_offset);
  write_column(file, "/runs/length", run_length);
  file.make_group("/segments");
  write_column(file, "/segments/offset", segment_offset);
  write_column(file, "/segments/length", segment_length);
  write_column(file, "/segments/run", segment_run);
}

ShardTables ShardTables::read(const H5File& file, const std::string& path, std::uint64_t num_frames) {
  ShardTables t;
  const H5Extent action_extent = file.extent("/actions");
  if (action_extent.type == H5Type::f32) {
    check<FileError>(
        action_extent.dims.size() == 2 && action_extent.dims[0] == num_frames && action_extent.dims[1] >= 1 &&
            action_extent.dims[1] <= 4096,
        "{}: /actions: expected [{},A], got {}", path, num_frames, action_extent.dims_text());
    t.action_width = static_cast<std::int64_t>(action_extent.dims[1]);
    t.float_actions.resize(num_frames * action_extent.dims[1]);
    file.read("/actions", H5Type::f32, t.float_actions.data(), t.float_actions.size());
  } else {
    t.actions = read_column<std::uint8_t>(file, path, "/actions", num_frames, true);
  }
  t.rewards = read_column<float>(file, path, "/rewards", num_frames, true);
  t.first = read_column<std::uint8_t>(file, path, "/first", num_frames, true);
  t.run_level = read_column<std::int32_t>(file, path, "/runs/level", num_frames, false);
  t.run_offset = read_column<std::uint64_t>(file, path, "/runs/offset", num_frames, false);
  t.run_length = read_column<std::uint32_t>(file, path, "/runs/length", num_frames, false);
  t.segment_offset = read_column<std::uint64_t>(file, path, "/segments/offset", num_frames, false);
  t.segment_length = read_column<std::uint32_t>(file, path, "/segments/length", num_frames, false);
  t.segment_run = read_column<std::uint32_t>(file, path, "/segments/run", num_frames, false);
  return t;
}

}  // namespace avid::data
