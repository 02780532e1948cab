// train/cli/cmd_report.cpp -- avid report: our scores beside the paper's tables, as one page and as JSON
#include <cstdio>
#include <memory>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/cli/command.h"
#include "train/paper_report.h"

namespace avid::cli {
namespace {

struct Options {
  train::PaperReportRequest request;
  std::string html, json_file;
  bool json = false;
};

void report(const Options& options) {
  check<UsageError>(
      !options.html.empty() || !options.json_file.empty() || options.json,
      "report: expected something to write | give --out FILE.html, --json-out FILE.json or --json");
  check<FileError>(
      std::filesystem::is_directory(options.request.scores), "{}: no such folder | fill it with avid evaluate --out",
      options.request.scores.string());
  check<FileError>(
      options.request.pictures.empty() || std::filesystem::is_directory(options.request.pictures),
      "{}: no such folder | fill it with avid sample, or leave --pictures out", options.request.pictures.string());
  const Json report = train::paper_report(options.request);
  for (const Json& warning : report["warnings"])
    std::fprintf(stderr, "warning: %s\n", warning.get<std::string>().c_str());
  if (report["records"].empty())
    std::fprintf(
        stderr, "warning: %s: no scores in it, the page has the paper's numbers alone\n",
        options.request.scores.string().c_str());
  const std::string text = json_text(report, 1) + "\n";
  if (options.json) std::printf("%s", text.c_str());
  if (!options.json_file.empty()) write_text_atomic(options.json_file, text);
  if (!options.html.empty()) write_text_atomic(options.html, train::paper_report_html(report, options.request));
  if (!options.json)
    for (const std::string& file : {options.html, options.json_file})
      if (!file.empty()) std::printf("%s\n", file.c_str());
}

const CommandRegistrar registrar(
    "report", "set scores beside the paper's tables: report.html and report.json", [](Command* command) {
      auto options = std::make_shared<Options>();
      train::PaperReportRequest& request = options->request;
      command->add_option("--scores", request.scores, "folder of DATASET__METHOD.json from avid evaluate --name method")
          ->type_name("DIR")
          ->required();
      command->add_option("--tables", request.tables, "the paper's numbers")->capture_default_str();
      command->add_option("--pictures", request.pictures, "folder of DATASET__METHOD/strip.png from avid sample")
          ->type_name("DIR");
      command->add_option("--table", request.only_tables, "only these tables: 1, 3, 4, 5, 6")->type_name("N");
      command->add_option("--title", request.title, "of the page")->capture_default_str();
      command->add_option("--note", request.notes, "a line that a reader must see; may be repeated")
          ->allow_extra_args(false);
      command->add_option("--out", options->html, "the page")->type_name("FILE");
      command->add_option("--json-out", options->json_file, "the same as JSON")->type_name("FILE");
      command->add_flag("--json", options->json, "print the JSON");
      set_example(
          command,
          "avid report --scores out/scores --pictures out/pictures --out out/report.html --json-out out/report.json");
      command->callback([options] { report(*options); });
    });

}  // namespace
}  // namespace avid::cli
