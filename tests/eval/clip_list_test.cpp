// tests/eval/clip_list_test.cpp -- a stored list of clips reads back, and a changed one is refused
#include "eval/clip_list.h"

#include "data/window_sampler.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

const std::filesystem::path kHeldOut = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5";

ClipList small_list() {
  const data::EpisodeStore store(kHeldOut);
  const data::WindowSampler sampler(store, {.num_frames = 10});
  return {.name = "few", .dataset = dataset_digest(store), .seed = 3, .starts = sampler.draw_evaluation(3, 5)};
}

}  // namespace

TEST_CASE("clip_list/json/reads_back_with_its_hash") {
  const ClipList list = small_list();
  const ClipList again = ClipList::from_json(list.to_json(), "x");
  CHECK(again.starts == list.starts);
  CHECK(again.hash() == list.hash());
  CHECK(again.name == "few");
  CHECK(again.dataset.size() == 64);
  ClipList other = list;
  other.name = "renamed";
  CHECK(other.hash() == list.hash());
  other.starts[2] += 1;
  CHECK(other.hash() != list.hash());
}

TEST_CASE("clip_list/errors/damaged_lists_are_refused") {
  std::string text = small_list().to_json();
  CHECK_THROWS_AS(ClipList::from_json("{}", "x"), FileError);
  CHECK_THROWS_AS(ClipList::from_json(text.substr(0, 50), "x"), FileError);
  const auto at = text.find("\"targets\":8");
  REQUIRE(at != std::string::npos);
  CHECK_THROWS_AS(ClipList::from_json(text.replace(at, 11, "\"targets\":7"), "x"), FileError);
  CHECK_THROWS_AS(load_clip_list("/nonexistent"), FileError);
}

}  // namespace avid::eval
