// train/cli/cmd_weights.cpp -- avid weights: which pretrained weights the metrics need, and their conversion
#include <cstdio>
#include <memory>

#include "eval/metrics/procgen_distance.h"
#include "eval/metrics/weight_conversion.h"
#include "eval/metrics/weight_files.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"

namespace avid::cli {
namespace {

struct Options {
  std::string dir;
  std::vector<std::filesystem::path> files;
  bool allow_unofficial = false, json = false;
};

/// The encoder that comes with the program; nothing to download.
Json shipped_record() {
  Json entry{
      {"network", ClipEncoder::kNetwork},
      {"metrics", {"fid_procgen", "fvd_procgen"}},
      {"file", ""},
      {"state", "missing"},
      {"sha256", ""},
      {"problem", ""}};
  try {
    const eval::ProcgenEncoder encoder = eval::load_procgen_encoder({}, ClipEncoder::kNetwork);
    entry["file"] = encoder.file.string();
    entry["state"] = encoder.shipped ? "shipped" : "own";
    entry["sha256"] = encoder.sha256;
  } catch (const FileError& error) {
    entry["problem"] = error.what();
  }
  return entry;
}

Json record(const std::filesystem::path& folder) {
  Json result{{"folder", folder.string()}, {"networks", Json::array()}};
  for (const eval::MetricNetwork& network : eval::metric_networks()) {
    const eval::WeightStatus status = eval::weight_status(folder, network.name);
    Json entry{{"network", network.name},      {"metrics", network.metrics},
               {"file", status.file.string()}, {"state", eval::name_of(status.state)},
               {"sha256", status.sha256},      {"source_sha256", status.source_sha256},
               {"problem", status.problem},    {"convert", network.how},
               {"official", Json::array()}};
    for (const eval::OfficialFile& file : eval::official_files()) {
      if (std::string_view(file.network) != network.name) continue;
      entry["official"].push_back(
          {{"file_name", file.file_name},
           {"part", file.part},
           {"bytes", file.num_bytes},
           {"sha256", file.sha256},
           {"origin", file.origin},
           {"licence", file.licence}});
    }
    result["networks"].push_back(std::move(entry));
  }
  result["shipped"] = shipped_record();
  return result;
}

void list(const Options& options) {
  const Json result = record(eval::weights_folder(options.dir));
  if (options.json) {
    print_json(result, 2);
    return;
  }
  std::printf("folder %s (--dir, or $AVID_WEIGHTS)\n", result["folder"].get<std::string>().c_str());
  for (const Json& network : result["networks"]) {
    std::string metrics;
    for (const Json& metric : network["metrics"]) metrics += (metrics.empty() ? "" : ", ") + metric.get<std::string>();
    std::printf(
        "\n%s  for %s: %s%s\n", network["network"].get<std::string>().c_str(), metrics.c_str(),
        network["state"].get<std::string>().c_str(),
        network["problem"].get<std::string>().empty() ? ""
                                                      : (" (" + network["problem"].get<std::string>() + ")").c_str());
    for (const Json& file : network["official"]) {
      const bool wrong = file["part"] == "wrong";
      std::printf(
          "  %s%s  %s, %s\n    sha256 %s\n", wrong ? "not " : "", file["file_name"].get<std::string>().c_str(),
          file["origin"].get<std::string>().c_str(), file["licence"].get<std::string>().c_str(),
          file["sha256"].get<std::string>().c_str());
    }
    if (network["state"] != "official") std::printf("  then: %s\n", network["convert"].get<std::string>().c_str());
  }
  const auto own = [&](const char* key) { return result["shipped"][key].get<std::string>(); };
  std::printf(
      "\n%s  for fid_procgen, fvd_procgen: %s\n  trained by this project on Procgen frames; not FID or FVD\n",
      ClipEncoder::kNetwork, own("state").c_str());
  if (own("state") == "missing")
    std::printf("  %s\n", own("problem").c_str());
  else
    std::printf("  %s\n    sha256 %s\n", own("file").c_str(), own("sha256").c_str());
}

void convert(const Options& options) {
  const eval::ConvertedWeights made =
      eval::convert_weights(options.files, eval::weights_folder(options.dir), options.allow_unofficial);
  if (options.json) {
    const Json result{
        {"network", made.network},
        {"file", made.file.string()},
        {"source_sha256", made.source_sha256},
        {"official", made.official},
        {"num_tensors", made.num_tensors}};
    print_json(result, 2);
    return;
  }
  std::printf(
      "%s: %s, %zu tensors, %s\n", made.file.c_str(), made.network.c_str(), made.num_tensors,
      made.official ? "from the official files" : "NOT from the official files: scores will say so");
}

const CommandRegistrar registrar(
    "weights", "pretrained weights of LPIPS, FID and FVD: what is needed, what is there; converts official files",
    [](Command* command) {
      auto options = std::make_shared<Options>();
      command->add_option("--dir", options->dir, "folder of converted weights (default: $AVID_WEIGHTS, else weights)")
          ->type_name("DIR");
      command->add_flag("--json", options->json, "print one JSON value");
      Command* conversion =
          command->add_subcommand("convert", "official .pth, .pt or TorchScript files -> <network>.safetensors");
      conversion->add_option("files", options->files, "the files of one network (LPIPS: trunk and heads)")
          ->type_name("FILE")
          ->required();
      conversion->add_option("--dir", options->dir, "where to write")->type_name("DIR");
      conversion->add_flag(
          "--allow-unofficial", options->allow_unofficial, "convert files whose sha256 is not an official one");
      conversion->add_flag("--json", options->json, "print one JSON value");
      set_example(conversion, "avid weights convert vgg16-397923af.pth vgg.pth --dir weights");
      set_example(command, "avid weights\n  avid weights convert pt_inception-2015-12-05-6726825d.pth");
      conversion->callback([options] { convert(*options); });
      command->callback([options, command] {
        if (!command->subcommand_given()) list(*options);
      });
    });

}  // namespace
}  // namespace avid::cli
