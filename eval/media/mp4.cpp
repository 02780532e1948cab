// eval/media/mp4.cpp -- RGB to planes, planes to packets, packets into a file
#include "eval/media/mp4.h"

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"

#if AVID_HAVE_AV
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
}

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#endif

namespace avid::eval {

#if !AVID_HAVE_AV

std::string mp4_problem() {
  return "this build has no video encoder | install libavcodec-dev and libavformat-dev and build again, or write PNG "
         "files or an .npz";
}
std::string mp4_encoder() { return {}; }
void write_mp4(const std::filesystem::path& path, const std::vector<Image>&, const Mp4Options&) {
  fail<Error>("{}: {}", path.string(), mp4_problem());
}

#else

namespace {

const AVCodec* find_encoder() {
  for (const char* name : {"libx264", "libopenh264"})
    if (const AVCodec* codec = avcodec_find_encoder_by_name(name)) return codec;
  return avcodec_find_encoder(AV_CODEC_ID_MPEG4);
}

struct FreeAll {
  void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
  void operator()(AVFormatContext* p) const {
    if (p->pb != nullptr) avio_closep(&p->pb);
    avformat_free_context(p);
  }
  void operator()(AVFrame* p) const { av_frame_free(&p); }
  void operator()(AVPacket* p) const { av_packet_free(&p); }
};
template <class T>
using Owned = std::unique_ptr<T, FreeAll>;

/// One video being written.
class Encoder {
 public:
  Encoder(const std::filesystem::path& path, const std::filesystem::path& file, int width, int height, int delay_ms)
      : path_(path) {
    av_log_set_level(AV_LOG_QUIET);  // what matters comes back as a code
    AVFormatContext* format = nullptr;
    must(avformat_alloc_output_context2(&format, nullptr, "mp4", file.c_str()), "start");
    format_.reset(format);
    format_->flags |= AVFMT_FLAG_BITEXACT;  // no time of writing, no version
    const AVCodec* codec = find_encoder();
    codec_.reset(avcodec_alloc_context3(codec));
    stream_ = avformat_new_stream(format_.get(), nullptr);
    frame_.reset(av_frame_alloc());
    packet_.reset(av_packet_alloc());
    must(codec_ && stream_ && frame_ && packet_ ? 0 : AVERROR(ENOMEM), "start");
    codec_->width = width;
    codec_->height = height;
    codec_->pix_fmt = AV_PIX_FMT_YUV420P;
    const int common = std::gcd(delay_ms, 1000);
    codec_->time_base = {delay_ms / common, 1000 / common};
    codec_->framerate = {1000 / common, delay_ms / common};
    codec_->color_range = AVCOL_RANGE_MPEG;
    codec_->colorspace = AVCOL_SPC_BT709;
    codec_->color_primaries = AVCOL_PRI_BT709;
    codec_->color_trc = AVCOL_TRC_BT709;
    codec_->gop_size = 12;
    codec_->thread_count = 1;
    codec_->flags |= AV_CODEC_FLAG_BITEXACT;
    if (codec->id == AV_CODEC_ID_H264) {
      av_opt_set(codec_->priv_data, "crf", "16", 0);  // an encoder without this option keeps its own default
      codec_->bit_rate = 4'000'000;                   // for those that know bit rates only
      if (std::string_view(codec->name) == "libx264") codec_->bit_rate = 0;
    } else {
      codec_->flags |= AV_CODEC_FLAG_QSCALE;
      codec_->global_quality = 3 * FF_QP2LAMBDA;
    }
    if ((format_->oformat->flags & AVFMT_GLOBALHEADER) != 0) codec_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    must(avcodec_open2(codec_.get(), codec, nullptr), "open the encoder");
    must(avcodec_parameters_from_context(stream_->codecpar, codec_.get()), "open the encoder");
    stream_->time_base = codec_->time_base;
    frame_->format = codec_->pix_fmt;
    frame_->width = width;
    frame_->height = height;
    must(av_frame_get_buffer(frame_.get(), 0), "make room for a frame");
    must(avio_open(&format_->pb, file.c_str(), AVIO_FLAG_WRITE), "open");
    must(avformat_write_header(format_.get(), nullptr), "write");
  }

  void add(const Image& image) {
    must(av_frame_make_writable(frame_.get()), "make room for a frame");
    fill(image);
    frame_->pts = next_time_++;
    must(avcodec_send_frame(codec_.get(), frame_.get()), "encode");
    drain();
  }

  void finish() {
    must(avcodec_send_frame(codec_.get(), nullptr), "encode");
    drain();
    must(av_write_trailer(format_.get()), "write");
    must(avio_closep(&format_->pb), "write");
  }

 private:
  void must(int code, const char* step) const {
    if (code >= 0) return;
    char reason[AV_ERROR_MAX_STRING_SIZE] = {};
    av_strerror(code, reason, sizeof reason);
    fail<FileError>("{}: video: could not {}: {} | choose another place or .gif", path_.string(), step, reason);
  }

  void drain() {
    for (;;) {
      const int code = avcodec_receive_packet(codec_.get(), packet_.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      must(code, "encode");
      if (packet_->duration == 0) packet_->duration = 1;
      av_packet_rescale_ts(packet_.get(), codec_->time_base, stream_->time_base);
      packet_->stream_index = stream_->index;
      must(av_interleaved_write_frame(format_.get(), packet_.get()), "write");
    }
  }

  /// BT.709, limited range. Colour is the mean of 2x2 pixels; beyond the picture its last row and column go on.
  void fill(const Image& image) {
    const auto pixel = [&](int x, int y) {
      return image.at(std::min(x, image.width - 1), std::min(y, image.height - 1));
    };
    const auto byte = [](double v) { return static_cast<std::uint8_t>(std::lround(std::clamp(v, 0.0, 255.0))); };
    for (int y = 0; y < codec_->height; ++y)
      for (int x = 0; x < codec_->width; ++x) {
        const Colour c = pixel(x, y);
        frame_->data[0][y * frame_->linesize[0] + x] =
            byte(16 + (0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]) * 219 / 255);
      }
    for (int y = 0; y < codec_->height / 2; ++y)
      for (int x = 0; x < codec_->width / 2; ++x) {
        double r = 0, g = 0, b = 0;
        for (const auto& [dx, dy] : {std::pair{0, 0}, std::pair{1, 0}, std::pair{0, 1}, std::pair{1, 1}}) {
          const Colour c = pixel(2 * x + dx, 2 * y + dy);
          r += c[0] / 4.0, g += c[1] / 4.0, b += c[2] / 4.0;
        }
        const double luma = 0.2126 * r + 0.7152 * g + 0.0722 * b;
        frame_->data[1][y * frame_->linesize[1] + x] = byte(128 + (b - luma) / 1.8556 * 224 / 255);
        frame_->data[2][y * frame_->linesize[2] + x] = byte(128 + (r - luma) / 1.5748 * 224 / 255);
      }
  }

  std::filesystem::path path_;
  Owned<AVFormatContext> format_;
  Owned<AVCodecContext> codec_;
  Owned<AVFrame> frame_;
  Owned<AVPacket> packet_;
  AVStream* stream_ = nullptr;  // the format's
  std::int64_t next_time_ = 0;
};

}  // namespace

std::string mp4_problem() {
  return find_encoder() != nullptr
             ? ""
             : "libavcodec has no video encoder here | install one with H.264, or write PNG files or an .npz";
}

std::string mp4_encoder() {
  const AVCodec* codec = find_encoder();
  const unsigned version = avcodec_version();
  return codec == nullptr
             ? ""
             : fmt::format(
                   "libavcodec {}.{}.{} with {}", version >> 16, version >> 8 & 255, version & 255, codec->name);
}

void write_mp4(const std::filesystem::path& path, const std::vector<Image>& frames, const Mp4Options& options) {
  check<Error>(mp4_problem().empty(), "{}: {}", path.string(), mp4_problem());
  check<ShapeError>(!frames.empty(), "{}: video: expected at least one frame, got none", path.string());
  check<ConfigError>(
      options.delay_ms >= 1 && options.delay_ms <= 10'000 && options.last_delay_ms >= 0,
      "{}: video: expected 1 to 10000 ms per frame, got {}", path.string(), options.delay_ms);
  for (const Image& frame : frames)
    check<ShapeError>(
        frame.width == frames[0].width && frame.height == frames[0].height && frame.width > 0 && frame.height > 0,
        "{}: video: expected frames of {}x{}, got {}x{}", path.string(), frames[0].width, frames[0].height, frame.width,
        frame.height);
  AtomicFile file(path, AtomicFile::Writer::external);
  Encoder encoder(
      path, file.temporary_path(), (frames[0].width + 1) / 2 * 2, (frames[0].height + 1) / 2 * 2, options.delay_ms);
  for (const Image& frame : frames) encoder.add(frame);
  for (int held = options.delay_ms; held < options.last_delay_ms; held += options.delay_ms) encoder.add(frames.back());
  encoder.finish();
  file.commit();
}

#endif

}  // namespace avid::eval
