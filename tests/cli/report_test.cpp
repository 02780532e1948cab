// tests/cli/report_test.cpp -- avid report: numbers beside data and compute, substitutes, masks, animations, one file
#include <algorithm>
#include <array>

#include <nlohmann/json.hpp>

#include "tests/cli/report_fixture.h"
#include "tests/doctest.h"

namespace avid::test {
namespace {

using Json = nlohmann::json;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

Json row_of(const Json& rows, const std::string& dataset, const std::string& key) {
  for (const Json& row : rows)
    if (row["dataset"] == dataset && row["key"] == key) return row;
  FAIL("no row ", dataset, " ", key);
  return {};
}

}  // namespace

TEST_CASE("report/json/data_compute_and_substitutes") {
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  const ProgramResult result = run_report(dir.path());
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const Json r = Json::parse(read_text(dir / "report.json"));
  // The base's compute stands apart from the method's own.
  const Json avid = row_of(r["scaling"]["rows"], "coinrun2500k", "avid_71m");
  CHECK(avid["flop"] == 5e14);
  CHECK(avid["base_flop"] == 3e16);
  CHECK(avid["frames"] == 20000);
  CHECK(avid["clips_seen"] == 8000);
  CHECK(avid["values"]["psnr"] == 24.5);
  CHECK(r["scaling"]["rows"].size() == 16);
  // A substitute stands beside the paper's column and leaves it empty.
  const Json row = row_of(r["tables"][0]["rows"], "coinrun500k", "avid_22m");
  CHECK(row["ours"]["FVD"].is_null());
  CHECK(row["ours"]["fvd_procgen"]["mean"] == 60);
  CHECK(row["ours"]["fvd_procgen"]["low"] == 57);
  CHECK(row["paper"]["FVD"] == 28.5);
  // Orders by the substitute, with paired differences out of resamples: all pairs of equal draws differ by a constant.
  bool seen = false;
  for (const Json& rank : r["ranks"])
    if (rank["table"] == 1 && rank["metric"] == "fvd_procgen") {
      seen = true;
      CHECK(rank["rows"] == 6);
      CHECK(rank["pairs_open"] == 0);
      CHECK(rank["pairs_confirmed"].get<int>() + rank["pairs_contradicted"].get<int>() == 15);
    }
  CHECK(seen);
  CHECK(r["masks"].size() == 6);
}

TEST_CASE("report/json/other_draws_are_never_paired") {
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  auto other = scores_json({.id = "coinrun500k__finetune", .psnr = 24, .fvd_procgen = 41});
  other["bootstrap"]["seed"] = 1;
  write_text_atomic(dir / "scores/coinrun500k__finetune.json", other.dump());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  for (const Json& rank : Json::parse(read_text(dir / "report.json"))["ranks"])
    if (rank["table"] == 1 && rank["metric"] == "fvd_procgen")
      CHECK(rank["pairs_confirmed"].get<int>() + rank["pairs_contradicted"].get<int>() == 10);
}

TEST_CASE("report/html/a warning of the scores stands there once") {
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  for (const char* id : {"coinrun500k__finetune", "coinrun500k__scratch_22m"}) {
    auto one = scores_json({.id = id, .psnr = 24, .fvd_procgen = 41});
    one["warnings"] = {"aer: says nothing <here>"};
    write_text_atomic(dir / ("scores/" + std::string(id) + ".json"), one.dump());
  }
  REQUIRE(run_report(dir.path()).exit_code == 0);
  CHECK(Json::parse(read_text(dir / "report.json"))["warnings"] == Json::array({"aer: says nothing <here>"}));
  CHECK(count(read_text(dir / "report.html"), ">aer: says nothing &lt;here&gt;.<") == 1);
}

TEST_CASE("report/html/the_action_error_of_a_blind_judge_is_shown_and_counted_nowhere") {
  const TempDir dir;
  const auto with_judge = [&](const std::string& name, bool blind) {
    const std::string folder = dir / name;
    write_made_up_report_inputs(folder);
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder + "/scores")) files.push_back(entry.path());
    for (const auto& file : files) {
      Json one = Json::parse(read_text(file));
      const double psnr = one["rows"][1]["psnr"]["mean"], accuracy = psnr / 40;  // the paper's order, about
      one["action_error"]["method"] = {
          {"acc_real", 0.6},
          {"acc_generated", accuracy},
          {"prob_real", 0.5},
          {"prob_generated", accuracy},
          {"aer", {{"mean", 0.6 / accuracy}, {"low", 0.6 / accuracy - 0.01}, {"high", 0.6 / accuracy + 0.01}}}};
      one["per_clip"]["method"]["acc"] = {accuracy, accuracy + 0.01, accuracy - 0.01, accuracy};
      // One file's word is enough: all have the same judge and the same real clips.
      if (blind && file.stem() == "coinrun500k__avid_22m")
        one["warnings"] = {"aer: says nothing here: on real clips the classifier is right in 0.066 of the steps"};
      write_text_atomic(file, one.dump());
    }
    REQUIRE(run_report(folder).exit_code == 0);
    return std::pair(Json::parse(read_text(folder + "/report.json")), read_text(folder + "/report.html"));
  };
  const auto [seeing, seeing_html] = with_judge("seeing", false);
  const auto [blind, blind_html] = with_judge("blind", true);
  const auto of_aer = [](const Json& list) {
    return std::count_if(list.begin(), list.end(), [](const Json& j) { return j["metric"] == "Action Err. Ratio"; });
  };
  CHECK(of_aer(seeing["ranks"]) > 0);
  CHECK(of_aer(blind["ranks"]) == 0);
  CHECK(of_aer(seeing["claims"][0]["metrics"]) == 1);
  for (const Json& claim : blind["claims"]) CHECK(of_aer(claim["metrics"]) == 0);
  CHECK(seeing["normalised"]["metrics"] == Json::array({"Action Err. Ratio", "SSIM", "PSNR"}));
  CHECK(blind["normalised"]["metrics"] == Json::array({"SSIM", "PSNR"}));
  // The other metrics' pairs are the same, and the numbers stay where they are.
  Json others = Json::array();
  for (const Json& rank : seeing["ranks"])
    if (rank["metric"] != "Action Err. Ratio") others.push_back(rank);
  CHECK(blind["ranks"] == others);
  CHECK(blind["tables"] == seeing["tables"]);
  CHECK(row_of(blind["tables"][0]["rows"], "coinrun500k", "avid_22m")["ours"]["Action Err. Ratio"].is_object());
  const std::string note = "Action Err. Ratio is not counted: its judge of actions cannot read the real clips either";
  CHECK(count(blind_html, note) == 1);
  CHECK(count(seeing_html, note) == 0);
  CHECK(blind["not_counted"] == Json::array({"Action Err. Ratio"}));
  CHECK(seeing["not_counted"].empty());
  // Nor is one of its numbers called the best.
  CHECK(count(blind_html, "class=\"ours best\"") < count(seeing_html, "class=\"ours best\""));
}

TEST_CASE("report/json/what_was_not_measured_and_what_is_our_own") {
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  const Json r = Json::parse(read_text(dir / "report.json"));
  CHECK(r["unavailable"].size() == 1);
  CHECK(r["unavailable"]["LPIPS"] == "lpips: unavailable: no weights <here> | convert them");
  REQUIRE(r["own"].size() == 1);
  const std::string html = read_text(dir / "report.html");
  CHECK(count(html, "<section id=\"measures\">") == 1);
  CHECK(html.find("lpips: unavailable: no weights &lt;here&gt; | convert them") != std::string::npos);
  CHECK(html.find("not FID or FVD") != std::string::npos);
  // In the five tables its column has a name of its own, and the paper's column has no cell of ours.
  CHECK(count(html, "<th>fvd_procgen<br>own metric</th>") == 5);
  CHECK(html.find("<th>FVD<br>ours</th>") == std::string::npos);
  CHECK(html.find("fvd_procgen, against the paper's FVD") != std::string::npos);
  CHECK(count(html, ">fvd_procgen, lower is better<") == 2);  // against data, against compute
  // The head of the page counts the paper's metrics only: pairs of PSNR.
  int pairs = 0, own = 0;
  for (const Json& rank : r["ranks"])
    for (const char* key : {"pairs_confirmed", "pairs_contradicted", "pairs_open"})
      (rank["metric"] == "fvd_procgen" ? own : pairs) += rank[key].get<int>();
  CHECK(own > 0);
  std::string card = html.substr(html.find("<div class=\"cards\">"));
  card = card.substr(0, card.find("pairs of the paper"));
  card = card.substr(card.rfind("<b>"));
  int counted = 0;
  for (std::size_t at = 0; at < card.size();) {
    const std::size_t digit = card.find_first_of("0123456789", at);
    if (digit == std::string::npos) break;
    std::size_t length = 0;
    counted += std::stoi(card.substr(digit), &length);
    at = digit + length;
  }
  CHECK(counted == pairs);
}

TEST_CASE("report/sweep/the_weight_is_chosen_by_the_first_metric_that_all_have") {
  const TempDir dir;
  const auto put = [&](const char* key, const std::vector<std::array<double, 3>>& rows) {  // weight, metric, psnr
    auto json = scores_json({.id = "coinrun500k__poe_22m"});
    json["rows"] = nlohmann::ordered_json::array();
    for (const auto& [weight, value, psnr] : rows) {
      nlohmann::ordered_json row{{"name", "method, poe " + std::to_string(weight).substr(0, 3)}};
      row["psnr"] = {{"mean", psnr}};
      if (value > 0) row[key] = value;
      json["per_clip"][row["name"].get<std::string>()]["psnr"] = {psnr, psnr};
      json["rows"].push_back(row);
    }
    std::filesystem::create_directories(dir / "scores");
    write_text_atomic(dir / "scores/coinrun500k__poe_22m.json", json.dump());
    REQUIRE(run_report(dir.path()).exit_code == 0);
    return row_of(Json::parse(read_text(dir / "report.json"))["tables"][0]["rows"], "coinrun500k", "poe_22m");
  };
  Json row = put("fvd_procgen", {{0.2, 50, 20}, {0.4, 40, 19}, {0.6, 60, 30}});
  CHECK(row["chosen"] == "method, poe 0.4");
  CHECK(row["chosen_by"] == "fvd_procgen");
  CHECK(read_text(dir / "report.html").find("poe 0.4 (best fvd_procgen)") != std::string::npos);
  row = put("fvd_i3d", {{0.2, 50, 20}, {0.4, 40, 19}, {0.6, 30, 18}});
  CHECK(row["chosen"] == "method, poe 0.6");
  CHECK(row["chosen_by"] == "fvd_i3d");
  row = put("fvd_i3d", {{0.2, 50, 20}, {0.4, 0, 19}, {0.6, 30, 18}});  // one without it: no fair choice by it
  CHECK(row["chosen"] == "method, poe 0.2");
  CHECK(row["chosen_by"] == "psnr");
  CHECK(put("fvd_i3d", {{0.2, 50, 20}})["chosen_by"].is_null());
}

TEST_CASE("report/errors/other_weights_or_another_switch_are_not_one_column") {
  const TempDir dir;
  const auto refused = [&](auto change, const char* text) {
    write_made_up_report_inputs(dir.path());
    auto other = scores_json({.id = "coinrun500k__finetune"});
    change(other);
    write_text_atomic(dir / "scores/coinrun500k__finetune.json", other.dump());
    const ProgramResult result = run_report(dir.path());
    CAPTURE(result.err);
    CHECK(result.exit_code == 1);
    CHECK(result.err.find(text) != std::string::npos);
    CHECK(result.err.find("evaluate both alike") != std::string::npos);
  };
  refused(
      [](auto& s) { s["weights"]["procgen-encoder"]["sha256"] = std::string(64, 'f'); },
      "weights of procgen-encoder: expected eeeeeeeeeeee");
  refused([](auto& s) { s["switches"]["quantise"] = "round"; }, "switch quantise: expected \"trunc\"");
  // Files from before these entries stand beside others.
  write_made_up_report_inputs(dir.path());
  auto old = scores_json({.id = "coinrun500k__finetune"});
  for (const char* key : {"weights", "switches", "notes", "unavailable"}) old.erase(key);
  write_text_atomic(dir / "scores/coinrun500k__finetune.json", old.dump());
  CHECK(run_report(dir.path()).exit_code == 0);
}

TEST_CASE("report/errors/files_and_folders_that_say_nothing_are_named") {
  const TempDir dir;
  std::filesystem::create_directories(dir / "scores");
  const ProgramResult empty = run_report(dir.path());
  CHECK(empty.exit_code == 0);
  CHECK(
      empty.err ==
      "warning: " + (dir / "scores").string() + ": no scores in it, the page has the paper's numbers alone\n");
  write_text_atomic(dir / "scores/coinrun500k__avid_22m.json", scores_json({.id = "coinrun500k__avid_22m"}).dump());
  write_text_atomic(dir / "scores/coinrun500k__avid22m.json", scores_json({.id = "coinrun500k__avid_22m"}).dump());
  const ProgramResult result = run_report(dir.path());
  CHECK(result.exit_code == 0);
  CHECK(result.err.find("warning: coinrun500k__avid22m.json: left out: ") != std::string::npos);
  CHECK(result.err.find("no scores") == std::string::npos);
  CHECK(read_text(dir / "report.html").find("coinrun500k__avid22m.json: left out") != std::string::npos);

  const auto fails = [&](int code, const std::string& text, std::vector<std::string> more) {
    CAPTURE(text);
    std::vector<std::string> words{
        AVID_PROGRAM,
        "report",
        "--scores",
        dir / "scores",
        "--json",
        "--tables",
        std::string(AVID_SOURCE_DIR) + "/configs/paper/tables.json"};
    words.insert(words.end(), more.begin(), more.end());
    const ProgramResult failed = run_program(words);
    CHECK(failed.exit_code == code);
    CHECK(failed.out.empty());
    CHECK(failed.err.find(text) != std::string::npos);
  };
  fails(1, "no such folder | fill it with avid sample", {"--pictures", dir / "none"});
  fails(2, "--table: expected 1, 3, 4, 5 or 6, got 9", {"--table", "1", "9"});
  write_text_atomic(dir / "scores/coinrun500k__avid_22m.json", "{}");
  fails(1, "a field is missing or of the wrong type", {});
}

TEST_CASE("report/html/one_file_with_figures_masks_and_animations") {
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  const std::string html = read_text(dir / "report.html");
  for (const char* id :
       {"claims", "table1", "table3", "table4", "table5", "table6", "measures", "ranks", "figure-normalised",
        "figure-data", "figure-compute", "figure-mask", "figure-masks", "videos", "audit"}) {
    CAPTURE(id);
    CHECK(count(html, std::string("<section id=\"") + id + "\">") == 1);
    CHECK(count(html, std::string("href=\"#") + id + "\"") == 1);
  }
  CHECK(html.find("name=\"viewport\"") != std::string::npos);
  // Sizes are those that each method was trained on, and only of methods with more than one.
  for (const char* size : {">4k<", ">12k<", ">20k<"}) CHECK(count(html, size) >= 4);
  CHECK(count(html, ">99k<") == 1);                           // in the table of FLOPs
  CHECK(count(html, "data:image/gif;base64,R0lGODlh") == 2);  // two clips, as GIF files
  CHECK(count(html, "data:image/png;base64,iVBORw0KGgo") == 1);
  // PSNR, SSIM, the substitute (data and compute), normalised score, three panels of masks, five of the paper and up.
  CHECK(count(html, "<svg ") >= 3 + 3 + 1 + 3);
  for (const char* number : {"\"nan", ",nan", " nan", ">nan", "\"inf", ",inf", ">inf"})
    CHECK(html.find(number) == std::string::npos);
  CHECK(count(html, "<table") == count(html, "</table>"));
  CHECK(count(html, "<section") == count(html, "</section>"));
  CHECK(count(html, "<div") == count(html, "</div>"));
  // Nothing from outside, nothing that runs: links stay in the page, sources are inside it.
  CHECK(html.find("<script") == std::string::npos);
  CHECK(html.find("url(") == std::string::npos);
  CHECK(count(html, "src=\"") == count(html, "src=\"data:image/"));
  CHECK(count(html, "href=\"") == count(html, "href=\"#"));
  CHECK(count(html, "http") == count(html, "xmlns=\"http://www.w3.org/2000/svg\""));
}

TEST_CASE("report/html/methods_of_other_clips_stay_out_of_the_animation") {
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  const std::string all = read_text(dir / "report.html");
  // The same file, but from other start frames.
  const auto path = dir / "pictures/coinrun500k__controlnet/samples.safetensors";
  NamedTensors tensors = open_tensor_file(path)->load_all();
  for (auto& [name, tensor] : tensors)
    if (name == "cond") tensor = Tensor::zeros(tensor.shape(), DType::u8);
  save_safetensors(path, tensors, {});
  REQUIRE(run_report(dir.path()).exit_code == 0);
  CHECK(read_text(dir / "report.html").size() < all.size());
}

TEST_CASE("report/html/without_records_or_pictures_the_rest_stands") {
  const TempDir dir;
  auto old = scores_json({.id = "coinrun500k__avid_22m"});
  old.erase("training");
  old.erase("resamples");
  std::filesystem::create_directories(dir / "scores");
  write_text_atomic(dir / "scores/coinrun500k__avid_22m.json", old.dump());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  const std::string html = read_text(dir / "report.html");
  CHECK(html.find("figure-compute") == std::string::npos);
  CHECK(html.find("id=\"videos\"") == std::string::npos);
  CHECK(html.find("id=\"table1\"") != std::string::npos);
  CHECK(Json::parse(read_text(dir / "report.json"))["scaling"]["rows"][0]["flop"].is_null());
}

}  // namespace avid::test
