// eval/media/png.h -- PNG files with text chunks
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "eval/media/image.h"

namespace avid::eval {

/// The PNG file of an image as bytes; each entry becomes a tEXt chunk (keyword -> text) behind the header.
/// Errors   Error when a keyword is not 1 to 79 printable ASCII characters, or a text is not ASCII without NUL.
std::string encode_png(const Image& image, const std::map<std::string, std::string>& text = {});

/// encode_png to a file, atomically. Throws FileError.
void write_png(
    const std::filesystem::path& path, const Image& image, const std::map<std::string, std::string>& text = {});

/// Of stb_image_write, "1.16".
std::string stb_version();

}  // namespace avid::eval
