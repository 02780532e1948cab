// train/cli/kept_clips.cpp -- see kept_clips.h
#include "train/cli/kept_clips.h"

#include <cstdio>

#include "tensor/error.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"

namespace avid::cli {
namespace {

constexpr const char *kMadeFrom = "avid.made_from", *kSampled = "avid.sampled";

}  // namespace

KeptClips::KeptClips(std::filesystem::path folder)
    : folder_(std::move(folder)), made_(folder_.empty() ? NewFolder() : NewFolder(folder_)) {}

std::filesystem::path KeptClips::file_of(const Json& made_from) const {
  const std::string text = json_text(made_from);
  return folder_ / (sha256_hex(std::as_bytes(std::span(text))).substr(0, 16) + ".safetensors");
}

std::optional<KeptClips::Clips> KeptClips::find(const Json& made_from) const {
  if (folder_.empty()) return {};
  const std::filesystem::path path = file_of(made_from);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  try {
    const SafetensorsFile file(path);
    const auto text = [&](const char* key) {
      const auto found = file.metadata().find(key);
      return found == file.metadata().end() ? std::string() : found->second;
    };
    const Json sampled = Json::parse(text(kSampled));
    Clips clips{
        .frames = file.load("generated"),
        .masks = sampled.at("masks"),
        .seconds = sampled.at("seconds"),
        .commit = sampled.at("commit"),
        .device = sampled.at("device"),
        .file = path};
    // The digest finds bytes that changed under a name and a header that did not.
    check<FileError>(
        text(kMadeFrom) == json_text(made_from) && clips.frames.dtype() == DType::u8 &&
            sha256_hex(clips.frames.to_dense_bytes()) == sampled.at("sha256"),
        "{}: not the frames that its header names", path.string());
    return clips;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "warning: %s: damaged (%s), sampled again\n", path.c_str(), error.what());
    return {};
  }
}

void KeptClips::keep(const Json& made_from, const Clips& clips) const {
  if (folder_.empty()) return;
  const Json sampled{
      {"masks", clips.masks},
      {"seconds", clips.seconds},
      {"commit", clips.commit},
      {"device", clips.device},
      {"sha256", sha256_hex(clips.frames.to_dense_bytes())}};
  save_safetensors(
      file_of(made_from), {{"generated", clips.frames}},
      {{kMadeFrom, json_text(made_from)}, {kSampled, json_text(sampled)}});
}

}  // namespace avid::cli
