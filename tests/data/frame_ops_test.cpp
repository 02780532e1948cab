// tests/data/frame_ops_test.cpp -- box filter and checksum
#include "data/frame_ops.h"

#include "tensor/error.h"
#include "tests/doctest.h"

using namespace avid;
using namespace avid::data;

TEST_CASE("frame_ops/box_downscale/halves_round_up_and_colours_stay_apart") {
  // one 2x2 frame: red sums to 2 (mean 0.5 -> 1), green to 5 (1.25 -> 1), blue to 1020 (255)
  const std::vector<std::uint8_t> frame = {0, 1, 255, 1, 1, 255, 1, 1, 255, 0, 2, 255};
  CHECK(box_downscale(frame, 2, 2, 2) == std::vector<std::uint8_t>{1, 1, 255});
  CHECK(box_downscale(frame, 2, 2, 1) == frame);
}

TEST_CASE("frame_ops/box_downscale/positions_and_several_frames") {
  std::vector<std::uint8_t> frames;  // two frames of 4x6, each 2x2 box constant
  for (int n = 0; n < 2; ++n)
    for (int y = 0; y < 4; ++y)
      for (int x = 0; x < 6; ++x)
        for (int c = 0; c < 3; ++c)
          frames.push_back(static_cast<std::uint8_t>(100 * n + 30 * (y / 2) + 10 * (x / 2) + c));
  std::vector<std::uint8_t> expected;
  for (int n = 0; n < 2; ++n)
    for (int y = 0; y < 2; ++y)
      for (int x = 0; x < 3; ++x)
        for (int c = 0; c < 3; ++c) expected.push_back(static_cast<std::uint8_t>(100 * n + 30 * y + 10 * x + c));
  CHECK(box_downscale(frames, 4, 6, 2) == expected);
}

TEST_CASE("frame_ops/box_downscale/sizes_that_do_not_fit") {
  std::vector<std::uint8_t> frame(27), out(12);
  CHECK_THROWS_AS(box_downscale(frame, 3, 3, 2), ShapeError);
  CHECK_THROWS_AS(box_downscale(frame, 3, 3, 0), ShapeError);
  CHECK_THROWS_AS(box_downscale(frame, 3, 3, 3, out), ShapeError);
  frame.resize(26);
  CHECK_THROWS_AS(box_downscale(frame, 3, 3, 3), ShapeError);
}

TEST_CASE("frame_ops/checksum/pieces_give_the_same_as_the_whole") {
  std::vector<std::uint8_t> bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + i / 256);
  const std::uint64_t whole = Checksum().update(bytes).value();
  for (const std::size_t piece : {1, 3, 7, 8, 9, 64, 999}) {
    Checksum sum;
    for (std::size_t i = 0; i < bytes.size(); i += piece)
      sum.update(std::span(bytes).subspan(i, std::min(piece, bytes.size() - i)));
    CHECK(sum.value() == whole);
  }
}

TEST_CASE("frame_ops/checksum/every_change_is_seen") {
  std::vector<std::uint8_t> bytes(50);
  const std::uint64_t zeros = Checksum().update(bytes).value();
  CHECK(zeros != Checksum().update(std::span(bytes).first(49)).value());
  for (std::size_t i = 0; i < bytes.size(); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::uint8_t>(1 << bit);
      CHECK(Checksum().update(bytes).value() != zeros);
      bytes[i] = 0;
    }
  // Stored in files: must never change.
  const std::vector<std::uint8_t> text = {'a', 'v', 'i', 'd'};
  std::uint64_t h = (0xcbf29ce484222325ULL ^ 0x64697661ULL) * 0x9e3779b97f4a7c15ULL;
  h ^= h >> 32;
  h = (h ^ 4) * 0x9e3779b97f4a7c15ULL;
  h ^= h >> 32;
  CHECK(Checksum().update(text).value() == h);
}
