// tests/eval/mp4_test.cpp -- MP4 files: the boxes read by hand, the frames through the library's decoder
#include "eval/media/mp4.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

#if AVID_HAVE_AV
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}
#endif

namespace avid::eval {
namespace {

/// A moving square on a gradient: smooth enough for 4:2:0, different in every frame.
std::vector<Image> pictures(int count, int width, int height) {
  std::vector<Image> out;
  for (int i = 0; i < count; ++i) {
    Image image(width, height);
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        image.set(x, y, {static_cast<std::uint8_t>(4 * x % 256), static_cast<std::uint8_t>(3 * y % 256), 90});
    image.fill_box(4 * i, 8, 16, 16, {220, 40, 30});
    out.push_back(std::move(image));
  }
  return out;
}

#if AVID_HAVE_AV
std::uint32_t word(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = at; i < at + 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

/// First place of each box's content by its path, "moov/trak/tkhd".
void list_boxes(
    const std::string& bytes, std::size_t begin, std::size_t end, const std::string& path,
    std::map<std::string, std::size_t>& found) {
  while (begin + 8 <= end) {
    const std::size_t size = word(bytes, begin);
    if (size < 8 || begin + size > end) return;
    const std::string name = path + bytes.substr(begin + 4, 4);
    found.emplace(name, begin + 8);
    for (const char* parent : {"moov", "trak", "mdia", "minf", "stbl"})
      if (name.ends_with(parent)) list_boxes(bytes, begin + 8, begin + size, name + "/", found);
    begin += size;
  }
}

/// Luma of the decoded frames.
std::vector<std::vector<int>> decode(const std::filesystem::path& path, int width, int height) {
  AVFormatContext* format = nullptr;
  REQUIRE(avformat_open_input(&format, path.c_str(), nullptr, nullptr) == 0);
  REQUIRE(avformat_find_stream_info(format, nullptr) >= 0);
  const AVCodec* codec = avcodec_find_decoder(format->streams[0]->codecpar->codec_id);
  AVCodecContext* context = avcodec_alloc_context3(codec);
  avcodec_parameters_to_context(context, format->streams[0]->codecpar);
  REQUIRE(avcodec_open2(context, codec, nullptr) == 0);
  AVPacket* packet = av_packet_alloc();
  AVFrame* frame = av_frame_alloc();
  std::vector<std::vector<int>> out;
  const auto take = [&] {
    while (avcodec_receive_frame(context, frame) == 0) {
      std::vector<int> luma;
      for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) luma.push_back(frame->data[0][y * frame->linesize[0] + x]);
      out.push_back(std::move(luma));
    }
  };
  while (av_read_frame(format, packet) == 0) {
    avcodec_send_packet(context, packet);
    take();
    av_packet_unref(packet);
  }
  avcodec_send_packet(context, nullptr);
  take();
  av_packet_free(&packet);
  av_frame_free(&frame);
  avcodec_free_context(&context);
  avformat_close_input(&format);
  return out;
}
#endif

}  // namespace

#if AVID_HAVE_AV

TEST_CASE("mp4/boxes/size_frames_and_time") {
  const test::TempDir dir;
  write_mp4(dir / "a.mp4", pictures(5, 64, 48), {.delay_ms = 200, .last_delay_ms = 600});
  const std::string bytes = read_text(dir / "a.mp4");
  std::map<std::string, std::size_t> box;
  list_boxes(bytes, 0, bytes.size(), "", box);
  REQUIRE(box.contains("ftyp"));
  REQUIRE(box.contains("moov/trak/tkhd"));
  REQUIRE(box.contains("moov/trak/mdia/minf/stbl/stsz"));
  const std::size_t header = box["moov/trak/tkhd"];
  CHECK((word(bytes, header + 76) >> 16) == 64);
  CHECK((word(bytes, header + 80) >> 16) == 48);
  CHECK(word(bytes, box["moov/trak/mdia/minf/stbl/stsz"] + 8) == 7);  // five, and the last one held twice more
  const std::size_t time = box["moov/trak/mdia/mdhd"];
  CHECK(word(bytes, time + 16) == doctest::Approx(1.4 * word(bytes, time + 12)));  // 7 * 200 ms
}

TEST_CASE("mp4/decoded/the_frames_that_went_in") {
  const test::TempDir dir;
  const std::vector<Image> in = pictures(6, 63, 47);  // odd: padded by a column and a row
  write_mp4(dir / "a.mp4", in, {.delay_ms = 100, .last_delay_ms = 0});
  const auto out = decode(dir / "a.mp4", 63, 47);
  REQUIRE(out.size() == in.size());
  for (std::size_t t = 0; t < in.size(); ++t) {
    double squares = 0;
    for (int y = 0; y < 47; ++y)
      for (int x = 0; x < 63; ++x) {
        const Colour c = in[t].at(x, y);
        const double luma = 16 + (0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]) * 219 / 255;
        const double d = out[t][static_cast<std::size_t>(y * 63 + x)] - luma;
        squares += d * d;
      }
    const double psnr = 10 * std::log10(255.0 * 255.0 / (squares / (63 * 47)));
    CAPTURE(t);
    CHECK(psnr > 32);
  }
}

TEST_CASE("mp4/bytes/depend_on_the_frames_only") {
  const test::TempDir dir;
  write_mp4(dir / "a.mp4", pictures(4, 32, 32));
  write_mp4(dir / "b.mp4", pictures(4, 32, 32));
  CHECK(read_text(dir / "a.mp4") == read_text(dir / "b.mp4"));
  CHECK_FALSE(mp4_encoder().empty());
  CHECK(mp4_problem().empty());
}

TEST_CASE("mp4/errors/one_line_and_nothing_left") {
  const test::TempDir dir;
  auto uneven = pictures(2, 32, 32);
  uneven.push_back(Image(16, 32));
  CHECK_THROWS_AS(write_mp4(dir / "a.mp4", uneven), ShapeError);
  CHECK_THROWS_AS(write_mp4(dir / "a.mp4", {}), ShapeError);
  CHECK_THROWS_AS(write_mp4(dir / "a.mp4", pictures(2, 32, 32), {.delay_ms = 0}), ConfigError);
  CHECK_THROWS_AS(write_mp4(dir / "no/folder/a.mp4", pictures(2, 32, 32)), FileError);
  CHECK(std::filesystem::is_empty(dir.path()));
}

#else

TEST_CASE("mp4/missing/says_what_to_install") {
  CHECK(mp4_encoder().empty());
  CHECK(mp4_problem().find("install libavcodec-dev") != std::string::npos);
  CHECK_THROWS_AS(write_mp4("a.mp4", pictures(1, 16, 16)), Error);
}

#endif

}  // namespace avid::eval
