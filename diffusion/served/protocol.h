// diffusion/served/protocol.h -- the bytes between a served denoiser and those who use it
//
// Over HTTP/1.1: GET /v1/info answers "key value" lines (ModelCard); POST /v1/predict takes a request and answers a
// response, both binary, little-endian, dense:
//
//   request   "AVDN" u32 version  u32 1  u32 flags (1: actions follow)  u64 model
//             i64 B,T,K,H,W  i64 t[B]  (i64 actions[B*T])  f32 x_t[B,T,H,W,3]  f32 cond[B,K,H,W,3]  u64 checksum
//   response  "AVDN" u32 version  u32 2  u32 0  u64 model
//             i64 B,T,H,W  f32 prediction[B,T,H,W,3]  u64 checksum
//
// model is the first 8 bytes of the weights' sha256: a client that asked for one model never gets another's answer,
// whatever was restarted in between (a request with 0 takes any). The checksum is FNV-1a of everything before it.
// An answer that is not 200 is one line of text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "diffusion/denoiser.h"
#include "diffusion/schedule.h"

namespace avid::diffusion {

inline constexpr std::uint32_t kProtocolVersion = 1;

/// What a client must know of a model it never opens.
struct ModelCard {
  std::string name;    ///< for people
  std::string sha256;  ///< of the weights, 64 hex digits
  Objective objective = Objective::pred_x0;
  ScheduleKind schedule = ScheduleKind::sigmoid;
  std::int64_t timesteps = 200;
  std::int64_t cond_frames = 2;  ///< K
  std::int64_t multiple = 1;     ///< height and width are multiples of this
  std::int64_t parameters = 0;
  double flops_per_pixel = 0;         ///< of one forward pass, per pixel of a generated frame; for predictions of cost
  std::int64_t frames = 0, size = 0;  ///< trained at; 0 = not known

  std::uint64_t id() const;  ///< first 8 bytes of sha256
  std::string to_text() const;
  /// Throws Error naming `where` for anything missing, unknown versions, or out of range.
  static ModelCard from_text(const std::string& text, const std::string& where);
};

/// f32 only. Throws DTypeError, ShapeError.
std::string encode_request(const DenoiserInput& input, std::uint64_t model);
struct DecodedRequest {
  DenoiserInput input;
  std::uint64_t model = 0;
};
/// Throws Error for anything that is not a whole, undamaged request, or one of more than `max_clips` clips.
DecodedRequest decode_request(std::string_view bytes, std::int64_t max_clips);

std::string encode_response(const Tensor& prediction, std::uint64_t model);
/// Throws Error naming `where` when the answer is damaged, from another model, of another shape than `expected`, or not
/// finite.
Tensor decode_response(std::string_view bytes, std::uint64_t model, const Shape& expected, const std::string& where);

}  // namespace avid::diffusion
