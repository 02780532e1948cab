// eval/clip_list.cpp -- a stored list of evaluation clips
#include "eval/clip_list.h"

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"

namespace avid::eval {
namespace {

constexpr const char* kFormat = "avid-clip-list 1";

}  // namespace

std::string ClipList::hash() const {
  Sha256 digest;
  digest.update(fmt::format("{}\n{} {} {} {}\n", dataset, context, targets, resets, starts.size()));
  for (const std::int64_t start : starts) digest.update(fmt::format("{}\n", start));
  return digest.hex();
}

std::string ClipList::to_json() const {
  const Json json = {{"format", kFormat},  {"name", name},       {"hash", hash()},
                     {"dataset", dataset}, {"context", context}, {"targets", targets},
                     {"resets", resets},   {"seed", seed},       {"starts", starts}};
  return json_text(json) + "\n";
}

ClipList ClipList::from_json(const std::string& text, const std::string& source) {
  const auto json = parse_json(text);
  check<FileError>(
      json.is_object() && json.value("format", "") == kFormat,
      "{}: expected a list of clips ({}) | make one with avid clips", source, kFormat);
  ClipList list;
  try {
    json.at("name").get_to(list.name);
    json.at("dataset").get_to(list.dataset);
    json.at("context").get_to(list.context);
    json.at("targets").get_to(list.targets);
    json.at("resets").get_to(list.resets);
    json.at("seed").get_to(list.seed);
    json.at("starts").get_to(list.starts);
  } catch (const Json::exception&) {
    fail<FileError>("{}: damaged: a field is missing or of the wrong type | make it again with avid clips", source);
  }
  check<FileError>(
      json.value("hash", "") == list.hash() && !list.starts.empty(),
      "{}: damaged: its hash does not fit its contents | make it again with avid clips", source);
  return list;
}

ClipList load_clip_list(const std::filesystem::path& file) {
  return ClipList::from_json(read_text(file, std::int64_t{1} << 28), file.string());
}

std::string dataset_digest(const data::EpisodeStore& store) {
  Sha256 digest;
  for (const data::ShardInfo& shard : store.shards())
    digest.update(fmt::format("{:016x} {}\n", shard.frame_checksum, shard.num_frames));
  return digest.hex();
}

}  // namespace avid::eval
