// tests/cli/methods_test.cpp -- the paper's methods through the program: mixtures, guidance, served bases, reports
#include <algorithm>
#include <cmath>
#include <fstream>

#include <nlohmann/json.hpp>

#include "models/action_classifier.h"
#include "models/checkpoint.h"
#include "models/controlnet.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/cli/server.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

const std::string kHeldOut = std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-heldout.h5";

ProgramResult avid_program(Words words) {
  words.insert(words.begin(), AVID_PROGRAM);
  return run_program(words);
}

/// Small networks of one family, written once: a base, an action model, an adapter, a ControlNet, two classifiers.
struct Networks {
  Networks() {
    const Unet3dConfig sizes{.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8};
    Unet3d base(sizes), action(sizes);
    base.initialize(1);
    action.initialize(2);
    save_safetensors(dir / "base.safetensors", base.export_tensors());
    save_safetensors(dir / "action.safetensors", action.export_tensors());
    Avid avid(make_avid_config(AvidVariant::mask, sizes));
    avid.initialize(3);
    save_safetensors(dir / "adapter.safetensors", avid.export_tensors());
    ControlNet control({.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8});
    control.initialize(4);
    control.copy_from_base(base);
    save_safetensors(dir / "control.safetensors", control.export_tensors());
    ActionClassifier classifier(
        {.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 8, .mlp_dim = 8, .image_size = 16});
    classifier.initialize(5);
    save_safetensors(dir / "classifier.safetensors", classifier.export_tensors());
  }
  std::string operator/(const std::string& name) const { return (dir / (name + ".safetensors")).string(); }
  TempDir dir;
};
const Networks& networks() {
  static const Networks all;
  return all;
}

/// avid evaluate with small settings; `more` may set them otherwise.
Words evaluate(const Words& more) {
  Words words{"evaluate", "--data", kHeldOut, "--json"};
  const std::vector<std::pair<std::string, std::string>> defaults = {
      {"--timesteps", "6"}, {"--sampler", "ddpm"}, {"--frames", "3"}, {"--clips", "2"}, {"--size", "16"}};
  for (const auto& [option, value] : defaults)
    if (std::find(more.begin(), more.end(), option) == more.end()) words.insert(words.end(), {option, value});
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Json report(Words more) {
  const ProgramResult result = avid_program(evaluate(std::move(more)));
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  return Json::parse(result.out);
}

Json row(const Json& report, const std::string& name) {
  for (const auto& r : report["rows"])
    if (r["name"] == name) return r;
  FAIL("no row " << name);
  return {};
}

std::vector<std::string> names(const Json& report) {
  std::vector<std::string> all;
  for (const auto& r : report["rows"]) all.push_back(r["name"]);
  return all;
}

void expect_error(int exit_code, const std::string& text, Words words) {
  CAPTURE(text);
  const ProgramResult result = avid_program(std::move(words));
  CHECK(result.exit_code == exit_code);
  CHECK(result.out == "");
  CAPTURE(result.err);
  CHECK(result.err.find(text) != std::string::npos);
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
}

}  // namespace

TEST_CASE("methods/sweep/property_35_and_36_through_the_program") {
  const Networks& n = networks();
  const Json r = report({"--base", n / "base", "--action-model", n / "action", "--poe", "0", "0.4", "1"});
  CHECK(names(r) == std::vector<std::string>{"repeat-last-frame", "base", "poe 0", "poe 0.4", "poe 1"});
  const Json alone = report({"--model", n / "action"});
  // Weight 0 is the base and 1 the action model, to rounding (frames are truncated to bytes).
  CHECK(
      row(r, "poe 0")["psnr"]["mean"].get<double>() ==
      doctest::Approx(row(r, "base")["psnr"]["mean"].get<double>()).epsilon(1e-4));
  CHECK(
      row(r, "poe 1")["psnr"]["mean"].get<double>() ==
      doctest::Approx(row(alone, "model")["psnr"]["mean"].get<double>()).epsilon(1e-4));
  CHECK(row(r, "poe 0.4")["psnr"]["mean"] != row(r, "poe 1")["psnr"]["mean"]);
  CHECK(r["sources"]["poe 0.4"]["poe"] == "0.4");
  CHECK(r["sources"]["poe 0.4"]["sha256.action_model"].get<std::string>().size() == 64);
  const Json cfg =
      report({"--base", n / "base", "--action-model", n / "action", "--action-cfg", "0", "3", "--name", "method"});
  CHECK(
      names(cfg) ==
      std::vector<std::string>{"repeat-last-frame", "base", "method, action-cfg 0", "method, action-cfg 3"});
  CHECK(row(cfg, "method, action-cfg 0")["psnr"]["mean"] == row(cfg, "base")["psnr"]["mean"]);
  CHECK(row(cfg, "method, action-cfg 3")["psnr"]["mean"] != row(cfg, "base")["psnr"]["mean"]);
}

TEST_CASE("methods/controlnet/property_37_a_fresh_one_is_the_base_and_orders_agree") {
  const Networks& n = networks();
  const Json r = report({"--base", n / "base", "--controlnet", n / "control"});
  CHECK(names(r) == std::vector<std::string>{"repeat-last-frame", "base", "controlnet"});
  CHECK(row(r, "controlnet")["psnr"] == row(r, "base")["psnr"]);
  const Json natural = report({"--base", n / "base", "--controlnet", n / "control", "--control-order", "natural"});
  CHECK(row(natural, "controlnet")["psnr"] == row(r, "base")["psnr"]);  // zero outputs: no order can matter
}

TEST_CASE("methods/guidance/property_38_weight_0_is_the_base") {
  const Networks& n = networks();
  const Json r = report({"--base", n / "base", "--guidance-classifier", n / "classifier", "--guidance", "0", "50"});
  CHECK(row(r, "guidance 0")["psnr"] == row(r, "base")["psnr"]);
  CHECK(row(r, "guidance 50")["psnr"] != row(r, "base")["psnr"]);
  // The reference's quirk: the base is given the actions too.
  const Json quirk = report(
      {"--base", n / "base", "--guidance-classifier", n / "classifier", "--guidance", "0", "--base-sees-actions"});
  CHECK(row(quirk, "guidance 0")["psnr"] != row(r, "base")["psnr"]);
  CHECK(row(quirk, "base")["psnr"] == row(r, "base")["psnr"]);
}

TEST_CASE("methods/nesting/mixtures_stand_on_what_is_below_them") {
  const Networks& n = networks();
  const Words adapter{"--base", n / "base", "--adapter", n / "adapter"};
  const Json plain = report(adapter);
  Words nested = adapter;
  for (const char* word :
       {"--action-model", "", "--poe", "0", "--action-cfg", "0", "0.5", "--guidance-classifier", "", "--guidance", "0"})
    nested.push_back(word);
  nested[5] = n / "action";
  nested[12] = n / "classifier";
  const Json r = report(nested);
  // All weights 0: the adapter itself, with its mask.
  const std::string zero = "adapter, poe 0, action-cfg 0, guidance 0";
  CHECK(
      row(r, zero)["psnr"]["mean"].get<double>() ==
      doctest::Approx(row(plain, "adapter")["psnr"]["mean"].get<double>()).epsilon(1e-4));
  CHECK(r["mask_mean_per_step"][zero].size() == 6);
  CHECK(row(r, "adapter, poe 0, action-cfg 0.5, guidance 0")["psnr"]["mean"] != row(plain, "adapter")["psnr"]["mean"]);
}

TEST_CASE("methods/aer/property_44_accuracies_and_the_stored_list") {
  const Networks& n = networks();
  const TempDir dir;
  const ProgramResult made = avid_program(
      {"clips", "--data", kHeldOut, "--count", "3", "--seed", "5", "--targets", "3", "--out",
       (dir / "few.json").string(), "--json"});
  CAPTURE(made.err);
  REQUIRE(made.exit_code == 0);
  const std::string hash = Json::parse(made.out)["hash"];
  const Words list{"--clip-list", (dir / "few.json").string(), "--clips", "0", "--classifier", n / "classifier"};
  Words a{"--base", n / "base"}, b{"--model", n / "action"};
  a.insert(a.end(), list.begin(), list.end());
  b.insert(b.end(), list.begin(), list.end());
  const Json x = report(a), y = report(b);
  CHECK(x["clips"]["hash"] == hash);
  CHECK(x["clips"]["name"] == "few");
  CHECK(x["n_clips"] == 3);
  CHECK(y["clips"]["hash"] == hash);
  // The same real clips for both, and the ratio that the accuracies give.
  CHECK(x["action_error"]["base"]["acc_real"] == y["action_error"]["model"]["acc_real"]);
  for (const Json& e : {x["action_error"]["base"], y["action_error"]["model"]}) {
    const double real = e["acc_real"], generated = e["acc_generated"];
    CHECK(e["aer"]["mean"].get<double>() == doctest::Approx(real / (generated + 1e-9)).epsilon(1e-6));
    CHECK(e["prob_real"].get<double>() > 0);
    CHECK(e["prob_real"].get<double>() < 1);
  }
  CHECK(x["per_clip"]["base"]["psnr"].size() == 3);
  CHECK(x["per_clip"]["real"]["acc"].size() == 3);
  expect_error(
      1, "made for other episodes",
      evaluate(
          {"--base", n / "base", "--clip-list", (dir / "few.json").string(), "--data",
           std::string(AVID_SOURCE_DIR) + "/data/samples/coinrun32-train.h5"}));
  expect_error(
      1, "clips of 2 + 3 frames",
      evaluate({"--base", n / "base", "--clip-list", (dir / "few.json").string(), "--frames", "4"}));
  // How windows over a restart were treated is the list's own, and what the report says.
  const std::string over = dir / "over.json";
  REQUIRE(
      avid_program({"clips", "--data", kHeldOut, "--count", "2", "--targets", "3", "--resets", "allow", "--out", over})
          .exit_code == 0);
  CHECK(report({"--base", n / "base", "--clip-list", over})["switches"]["resets"] == "allow");
  CHECK(x["switches"]["resets"] == "exclude");
  expect_error(
      1, "drawn with --resets allow, got --resets exclude",
      evaluate({"--base", n / "base", "--clip-list", over, "--resets", "exclude"}));
}

TEST_CASE("methods/served/same_numbers_and_a_restart") {
  const Networks& n = networks();
  const Words adapter{"--adapter", n / "adapter"};
  const auto with_base = [&](const std::string& base) {
    Words words{"--base", base};
    words.insert(words.end(), adapter.begin(), adapter.end());
    return report(words);
  };
  const Json here = with_base(n / "base");
  Json there;
  {
    Server server(n / "base");
    CHECK(server.card["sha256"] == here["sources"]["adapter"]["sha256.base"]);
    there = with_base(server.url());
    expect_error(1, "needs the base's weights", evaluate({"--base", server.url(), "--controlnet", n / "control"}));
    CHECK(server.stop() == 0);
  }
  CHECK(there["rows"] == here["rows"]);
  CHECK(there["sources"]["adapter"]["sha256.base"] == here["sources"]["adapter"]["sha256.base"]);
  setenv("AVID_BASE_PATIENCE", "0.2", 1);
  expect_error(1, "nobody answers there", evaluate({"--base", "http://127.0.0.1:9"}));
  unsetenv("AVID_BASE_PATIENCE");
  expect_error(2, "set a token", {"serve-denoiser", "--base", n / "base", "--host", "0.0.0.0", "--port", "0"});
}

TEST_CASE("methods/sample/one_weight_and_a_label") {
  const Networks& n = networks();
  const TempDir dir;
  Words words{
      "sample",
      "--timesteps",
      "6",
      "--sampler",
      "ddpm",
      "--frames",
      "3",
      "--clips",
      "1",
      "--size",
      "16",
      "--data",
      kHeldOut,
      "--base",
      n / "base",
      "--classifier",
      n / "classifier",
      "--guidance",
      "2",
      "--out",
      (dir / "p").string(),
      "--json"};
  const ProgramResult result = avid_program(words);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(Json::parse(result.out)["sources"]["guidance"] == "2");
  CHECK(fs::exists(dir / "p/strip.png"));
  words.insert(words.end() - 3, "3");  // a sweep
  expect_error(2, "sweeps go with avid evaluate", words);
}

TEST_CASE("methods/errors/one_line_each") {
  const Networks& n = networks();
  expect_error(2, "--poe", evaluate({"--base", n / "base", "--poe", "0.4"}));
  expect_error(2, "needs a weight", evaluate({"--base", n / "base", "--action-model", n / "action"}));
  const Words mix{"--base", n / "base", "--action-model", n / "action", "--poe"};
  const auto with = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return evaluate(words);
  };
  expect_error(2, "--poe: 0.4 stands there twice", with(mix, {"0.4", "0.2", "0.4"}));
  expect_error(2, "--poe: expected a number, got nan", with(mix, {"nan"}));
  expect_error(2, "--action-cfg: expected a number, got inf", with(mix, {"0.2", "--action-cfg", "inf"}));
  expect_error(
      1, "so many windows of 10 frames there are",
      {"clips", "--data", kHeldOut, "--count", "1000000", "--out", (n.dir / "many.json").string()});
  // What training notes in its weights tells which network can stand where.
  const TempDir dir;
  const auto noted = [&](const std::string& network, const std::map<std::string, std::string>& metadata) {
    const std::string file = dir / (metadata.begin()->second + ".safetensors");
    save_safetensors(file, open_tensor_file(n / network)->load_all(), metadata);
    return file;
  };
  const std::string base = noted("action", {{"avid.kind", "base"}}),
                    clean = noted("classifier", {{"avid.kind", "classifier"}}),
                    noisy = noted("classifier", {{"avid.kind", "noisy_classifier"}}),
                    always = noted("action", {{"avid.action_drop", "0"}});
  expect_error(
      1, "a base, trained without actions | --action-model needs",
      evaluate({"--base", n / "base", "--action-model", base, "--poe", "0.4"}));
  expect_error(1, "a base, trained without actions | --model needs", evaluate({"--model", base}));
  expect_error(
      1, "train.action_drop=0.2", evaluate({"--base", n / "base", "--action-model", always, "--action-cfg", "1"}));
  expect_error(
      1, "expected one trained on noisy frames (model.kind noisy_classifier), got a judge of clean ones",
      evaluate({"--base", n / "base", "--guidance-classifier", clean, "--guidance", "1"}));
  expect_error(
      1, "expected a judge trained on clean frames (model.kind classifier), got one of noisy frames",
      evaluate({"--base", n / "base", "--classifier", noisy}));
  expect_error(2, "go together", evaluate({"--base", n / "base", "--guidance", "1"}));
  expect_error(
      2, "use --sampler ddpm",
      evaluate(
          {"--base", n / "base", "--guidance-classifier", n / "classifier", "--guidance", "1", "--sampler", "ddim",
           "--steps", "3"}));
  expect_error(
      1, "--size 16",
      evaluate({"--base", n / "base", "--guidance-classifier", n / "classifier", "--guidance", "1", "--size", "32"}));
  expect_error(1, "--size 16", evaluate({"--base", n / "base", "--classifier", n / "classifier", "--size", "32"}));
  expect_error(2, "error: http://: expected http://host:port", evaluate({"--base", "http://"}));
}

TEST_CASE("methods/errors/an_option_with_nothing_to_do_is_refused") {
  const Networks& n = networks();
  const auto refused = [&](const std::string& text, Words more) {
    more.insert(more.begin(), {"--base", n / "base"});
    expect_error(2, text, evaluate(std::move(more)));
  };
  refused("--control-order: this model has no ControlNet", {"--control-order", "natural"});
  refused("--method-first-t: nothing is mixed or guided here", {"--method-first-t", "2"});
  refused(
      "--method-first-t: expected less than the 6 diffusion steps, got 6",
      {"--action-model", n / "action", "--poe", "0.4", "--method-first-t", "6"});
  refused("--eta: ddpm has noise of its own", {"--eta", "0.5"});
  refused("--set psnr.per_video: a switch of avid metrics alone", {"--set", "psnr.per_video=true"});
  refused("--set rt1.skip_first_frame: a switch", {"--set", "rt1.skip_first_frame=true"});
  refused("--set frechet.method=moments: a switch", {"--set", "frechet.method=moments"});
  refused("--seed: expected a number of at least 0, got -1", {"--seed", "-1"});
  refused("--resets: ", {"--resets", "maybe"});
  refused(
      "--action-model: http://127.0.0.1:9 is a server, which offers a base alone",
      {"--action-model", "http://127.0.0.1:9", "--poe", "0.4"});
  expect_error(2, "--model: http://127.0.0.1:9 is a server", evaluate({"--model", "http://127.0.0.1:9"}));
  setenv("AVID_BASE_TIMEOUT", "0", 1);
  expect_error(
      2, "AVID_BASE_TIMEOUT: expected seconds, 0.001 to 1e+06, got '0'", evaluate({"--base", "http://[::1]:9"}));
  unsetenv("AVID_BASE_TIMEOUT");
  setenv("AVID_BASE_PATIENCE", "1e300", 1);
  expect_error(2, "AVID_BASE_PATIENCE: expected seconds", evaluate({"--base", "http://127.0.0.1:9"}));
  unsetenv("AVID_BASE_PATIENCE");
  const Words serve{"serve-denoiser", "--base", n / "base", "--port", "0", "--timesteps"};
  const auto with = [&](const Words& more) {
    Words words = serve;
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  expect_error(2, "needs more than 20, got 6", with({"6", "--schedule", "linear"}));
  expect_error(2, "line not in {linear,cosine,sigmoid}", with({"6", "--schedule", "line"}));
  expect_error(2, "--timeout: expected a number above 0, got inf", with({"6", "--timeout", "inf"}));
}

TEST_CASE("methods/report/tables_ranks_and_a_page_without_scores") {
  const TempDir dir;
  fs::create_directories(dir / "scores");
  const auto score = [](double psnr, const std::string& hash) {
    Json json;
    json["clips"] = {{"hash", hash}, {"name", "x"}};
    json["sources"] = Json::object();
    json["rows"] = {
        {{"name", "base"}, {"psnr", {{"mean", 99}}}},
        {{"name", "method"}, {"psnr", {{"mean", psnr}, {"low", psnr - 1}, {"high", psnr + 1}}}}};
    json["per_clip"] = {{"method", {{"psnr", {psnr, psnr + 0.5, psnr - 0.5, psnr + 0.1}}}}};
    return json.dump();
  };
  const auto put = [&](const std::string& id, double psnr, const std::string& hash = "h") {
    write_text_atomic(dir / ("scores/" + id + ".json"), score(psnr, hash));
  };
  put("coinrun500k__avid_22m", 22);
  put("coinrun500k__scratch_22m", 25);  // against the paper
  put("coinrun500k__cfg_22m", 10);
  const Words words{
      "report",
      "--scores",
      (dir / "scores").string(),
      "--tables",
      std::string(AVID_SOURCE_DIR) + "/configs/paper/tables.json",
      "--out",
      (dir / "r.html").string(),
      "--json",
      "--note",
      "a <note>"};
  const ProgramResult result = avid_program(words);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const Json r = Json::parse(result.out);
  CHECK(r["tables"].size() == 5);
  CHECK(r["tables"][0]["rows"][0]["ours"]["PSNR"]["mean"] == 22);
  CHECK(r["tables"][0]["rows"][0]["ours"]["FVD"].is_null());
  for (const auto& rank : r["ranks"])
    if (rank["table"] == 1 && rank["metric"] == "PSNR") {
      CHECK(rank["rows"] == 3);
      CHECK(rank["kendall_tau"].get<double>() == doctest::Approx(1.0 / 3));
      CHECK(rank["pairs_confirmed"] == 2);
      CHECK(rank["pairs_contradicted"] == 1);
    }
  CHECK(r["claims"][0]["metrics"][0]["holds"] == false);
  const std::string html = read_text(dir / "r.html");
  CHECK(html.find("a &lt;note&gt;") != std::string::npos);
  for (const char* part : {"Table 1", "not measured", "viewport", "22.00"}) CHECK(html.find(part) != std::string::npos);
  for (const char* outside : {"<script", "http-equiv", "src=\"http", "href=\"http"})
    CHECK(html.find(outside) == std::string::npos);
  CHECK(avid_program(words).out == result.out);

  put("coinrun500k__finetune", 20, "another");
  expect_error(1, "scored on other clips", words);
  write_text_atomic(dir / "scores/coinrun500k__finetune.json", "{");
  expect_error(1, "damaged", words);
}

}  // namespace avid::test
