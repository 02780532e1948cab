// eval/media/strip.h -- clips as pictures: a strip with time to the right, and an animation with panels side by side
#pragma once

#include <string>
#include <vector>

#include "eval/media/image.h"

namespace avid::eval {

/// One line of a strip, or one panel of an animation.
struct ClipRow {
  std::string label;
  Tensor cond;    // [K,H,W,3] u8 shown before the frames, or undefined: an empty space
  Tensor frames;  // [T,H,W,3] colour or [T,H,W,1] grey, u8
};

struct StripOptions {
  int scale = 4;                     ///< screen pixels per pixel of a frame
  std::int64_t num_cond = 0;         ///< K: columns kept free before the frames
  std::vector<std::string> actions;  ///< a caption above each frame, or empty; see action_caption
  std::size_t columns = 0;           ///< of an animation's panels; 0: all in one line
};

/// Rows from top to bottom, conditioning and then generated frames from left to right, captions above, labels left.
/// All frames of one size. Throws ShapeError.
Image draw_strip(const std::vector<ClipRow>& rows, const StripOptions& options);

/// K + T pictures with one panel per row of the strip, side by side, in lines of `columns`. While conditioning frames
/// show, rows without show those of the first row that has some.
std::vector<Image> draw_animation(const std::vector<ClipRow>& rows, const StripOptions& options);

/// Several strips under each other.
Image stack(const std::vector<Image>& images, int gap);

/// A short caption: arrows for directions ("right+up" -> two arrows), the name itself otherwise.
std::string action_caption(const std::string& action_name);

/// A mask [T,H,W,1] or [B,T,H,W,1] in [0,1] (f32 or f64) as grey levels, white = 1 = the base is used. Rounded.
Tensor mask_to_u8(const Tensor& mask);

}  // namespace avid::eval
