// tests/eval/media_test.cpp -- PNG and GIF files read back by other code; strips and captions
#include <gif_lib.h>
#include <zlib.h>

#include <cmath>
#include <cstring>
#include <map>

#include "eval/media/gif.h"
#include "eval/media/png.h"
#include "eval/media/strip.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace avid::eval {
namespace {

Image pattern(int width, int height, int seed) {
  Image image(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      image.set(
          x, y,
          {static_cast<std::uint8_t>(x * 7 + seed), static_cast<std::uint8_t>(y * 11 + seed),
           static_cast<std::uint8_t>(x * y)});
  return image;
}

/// Type -> data of every chunk; checks each CRC and that the file ends after IEND.
std::multimap<std::string, std::string> chunks_of(const std::string& png) {
  std::multimap<std::string, std::string> out;
  const auto u32 = [&](std::size_t at) {
    std::uint32_t v = 0;
    for (std::size_t i = 0; i < 4; ++i) v = v << 8 | static_cast<unsigned char>(png.at(at + i));
    return v;
  };
  std::size_t at = 8;
  while (at < png.size()) {
    const std::uint32_t length = u32(at);
    const std::string body = png.substr(at + 4, 4 + length);
    CHECK(
        u32(at + 8 + length) == crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())));
    out.emplace(body.substr(0, 4), body.substr(4));
    at += 12 + length;
  }
  CHECK(at == png.size());
  return out;
}

/// All frames of a GIF as RGB, through giflib's reader.
struct DecodedGif {
  std::vector<Image> frames;
  std::string comment;
  bool loops = false;
  std::vector<int> delays_ms;
};
DecodedGif decode_gif(const std::string& bytes) {
  struct Source {
    const std::string& bytes;
    std::size_t at;
  } source{bytes, 0};
  const auto read = [](GifFileType* file, GifByteType* target, int size) {
    auto* s = static_cast<Source*>(file->UserData);
    const std::size_t n = std::min(static_cast<std::size_t>(size), s->bytes.size() - s->at);
    std::memcpy(target, s->bytes.data() + s->at, n);
    s->at += n;
    return static_cast<int>(n);
  };
  int error = 0;
  GifFileType* file = DGifOpen(&source, read, &error);
  REQUIRE(file != nullptr);
  REQUIRE(DGifSlurp(file) == GIF_OK);
  DecodedGif out;
  for (int f = 0; f < file->ImageCount; ++f) {
    const SavedImage& saved = file->SavedImages[f];
    Image image(file->SWidth, file->SHeight);
    for (int i = 0; i < file->SWidth * file->SHeight; ++i) {
      const GifColorType& c = file->SColorMap->Colors[saved.RasterBits[i]];
      image.set(i % file->SWidth, i / file->SWidth, {c.Red, c.Green, c.Blue});
    }
    out.frames.push_back(image);
    GraphicsControlBlock control;
    DGifSavedExtensionToGCB(file, f, &control);
    out.delays_ms.push_back(control.DelayTime * 10);
    for (int e = 0; e < saved.ExtensionBlockCount; ++e) {
      const ExtensionBlock& block = saved.ExtensionBlocks[e];
      const std::string text(reinterpret_cast<const char*>(block.Bytes), static_cast<std::size_t>(block.ByteCount));
      if (block.Function == APPLICATION_EXT_FUNC_CODE && text == "NETSCAPE2.0") out.loops = true;
      if (block.Function == COMMENT_EXT_FUNC_CODE) out.comment += text;
      if (block.Function == CONTINUE_EXT_FUNC_CODE && !out.comment.empty()) out.comment += text;
    }
  }
  DGifCloseFile(file, &error);
  return out;
}

}  // namespace

TEST_CASE("media/png/pixels_and_text_come_back") {
  const Image image = pattern(13, 7, 3);
  const std::string settings(3000, 'x');
  const std::string png = encode_png(image, {{"avid", settings}, {"Title", "a strip"}});
  int width = 0, height = 0, channels = 0;
  std::uint8_t* pixels = stbi_load_from_memory(
      reinterpret_cast<const std::uint8_t*>(png.data()), static_cast<int>(png.size()), &width, &height, &channels, 3);
  REQUIRE(pixels != nullptr);
  CHECK(width == 13);
  CHECK(height == 7);
  CHECK(std::vector<std::uint8_t>(pixels, pixels + 13 * 7 * 3) == image.rgb);
  stbi_image_free(pixels);
  const auto chunks = chunks_of(png);
  CHECK(chunks.count("tEXt") == 2);
  CHECK(chunks.find("tEXt")->second == std::string("Title\0a strip", 13));
  CHECK(std::next(chunks.find("tEXt"))->second == std::string("avid\0", 5) + settings);
  CHECK(chunks.count("IEND") == 1);
}

TEST_CASE("media/png/errors/text_and_folder") {
  const Image image(2, 2);
  CHECK_THROWS_AS(encode_png(image, {{"", "x"}}), Error);
  CHECK_THROWS_AS(encode_png(image, {{"k", "caf\xc3\xa9"}}), Error);
  CHECK_THROWS_AS(write_png("/nonexistent-folder/x.png", image), FileError);
  CHECK_THROWS_AS(Image(0, 4), ShapeError);
}

TEST_CASE("media/gif/few_colours_are_exact") {
  std::vector<Image> frames;
  for (int f = 0; f < 3; ++f) {
    Image image(20, 10, {10, 20, 30});
    for (int i = 0; i < 60; ++i)
      image.set((i * 7 + f) % 20, i % 10, {static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(200 - i), 7});
    frames.push_back(image);
  }
  const std::string comment = "{\"seed\":1," + std::string(600, 'y') + "}";
  const DecodedGif back = decode_gif(encode_gif(frames, {.delay_ms = 120, .last_delay_ms = 500, .comment = comment}));
  REQUIRE(back.frames.size() == 3);
  for (std::size_t f = 0; f < 3; ++f) CHECK(back.frames[f].rgb == frames[f].rgb);
  CHECK(back.loops);
  CHECK(back.comment == comment);
  CHECK(back.delays_ms == std::vector<int>{120, 120, 500});
}

TEST_CASE("media/gif/many_colours_stay_close") {
  const std::vector<Image> frames{pattern(64, 64, 0), pattern(64, 64, 90)};  // thousands of colours
  const DecodedGif back = decode_gif(encode_gif(frames));
  double squares = 0;
  for (std::size_t f = 0; f < 2; ++f)
    for (std::size_t i = 0; i < frames[f].rgb.size(); ++i) {
      const double d = int{frames[f].rgb[i]} - int{back.frames[f].rgb[i]};
      squares += d * d;
    }
  const double rms = std::sqrt(squares / static_cast<double>(2 * frames[0].rgb.size()));
  CHECK(rms < 16);  // 256 colours for a full cube: 6.35 levels per axis, 40 wide, 11.6 rms if evenly spread
}

TEST_CASE("media/gif/errors/sizes") {
  CHECK_THROWS_AS(encode_gif({}), Error);
  CHECK_THROWS_AS(encode_gif({Image(4, 4), Image(4, 5)}), ShapeError);
}

TEST_CASE("media/strip/frames_are_where_they_belong") {
  Tensor cond = Tensor::full({2, 4, 6, 3}, 10, DType::u8), frames = Tensor::full({3, 4, 6, 3}, 200, DType::u8),
         mask = Tensor::full({3, 4, 6, 1}, 255, DType::u8);
  const std::vector<ClipRow> rows{{"real", cond, frames}, {"mask", {}, mask}};
  const StripOptions options{.scale = 3, .num_cond = 2, .actions = {"\x02", "\x02", "up"}};
  const Image strip = draw_strip(rows, options);
  std::map<Colour, int> count;
  for (int y = 0; y < strip.height; ++y)
    for (int x = 0; x < strip.width; ++x) ++count[strip.at(x, y)];
  CHECK(count[{10, 10, 10}] == 2 * 4 * 6 * 9);
  CHECK(count[{200, 200, 200}] == 3 * 4 * 6 * 9);
  CHECK(count[{255, 255, 255}] == 3 * 4 * 6 * 9);
  const std::vector<Image> animation = draw_animation(rows, options);
  REQUIRE(animation.size() == 5);
  CHECK(animation[0].width == animation[4].width);
  CHECK(stack({strip, strip}, 4).height == 2 * strip.height + 4);
  CHECK_THROWS_AS(
      draw_strip({{"a", cond, frames}, {"b", {}, Tensor::zeros({3, 5, 6, 3}, DType::u8)}}, options), ShapeError);
}

TEST_CASE("media/captions/arrows_and_masks") {
  CHECK(action_caption("right+up") == "\x02\x03");
  CHECK(action_caption("left") == "\x01");
  CHECK(action_caption("none") == "none");
  CHECK(
      mask_to_u8(Tensor::from_values(std::vector<float>{0, 0.5f, 1, 2}, {4, 1})).to_values<std::uint8_t>() ==
      std::vector<std::uint8_t>{0, 128, 255, 255});
  Image image(10, 8);
  draw_text(image, 0, 0, "I\x02", {255, 255, 255});
  CHECK(image.at(2, 3) == Colour{255, 255, 255});
  CHECK(image.at(0, 3) == Colour{0, 0, 0});
  CHECK(text_width("ab") == 11);
}

}  // namespace avid::eval
