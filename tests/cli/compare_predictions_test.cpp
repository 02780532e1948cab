// tests/cli/compare_predictions_test.cpp -- bench/compare_predictions.py: rows of two predictions that differ
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>

#include "tensor/io/atomic_file.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::test {
namespace {

using Json = nlohmann::json;

bool no_python() {
  if (run_program({"/usr/bin/env", "python3", "-c", ""}).exit_code == 0) return false;
  MESSAGE("skipped: no Python 3 on this machine");
  return true;
}

Json row(const char* part, const char* line, const char* kernel, double ms, int launches = 1) {
  return {{"part", part}, {"line", line}, {"kernel", kernel}, {"predicted_ms", ms}, {"launches", launches}};
}

Json prediction(double total, const std::vector<Json>& kernels) {
  return {
      {"gpu", "A100 SXM 40 GB"},
      {"kind", "base"},
      {"config", "a.toml"},
      {"clips", 2},
      {"dtype", "bf16"},
      {"model", {{"clock_ghz", 1.41}}},
      {"predicted_ms", total},
      {"kernels", kernels},
      {"lines", Json::array({row("fwd", "conv", "", total)})}};
}

class Folder {
 public:
  std::string keep(const std::string& name, const std::string& text) const {
    write_text_atomic(dir_ / name, text);
    return dir_ / name;
  }
  std::string keep(const std::string& name, const Json& value) const { return keep(name, value.dump()); }
  ProgramResult compare(const std::vector<std::string>& words) const {
    const std::filesystem::path script = std::filesystem::path(AVID_SOURCE_DIR) / "bench/compare_predictions.py";
    std::vector<std::string> command{"/usr/bin/env", "python3", script.string()};
    command.insert(command.end(), words.begin(), words.end());
    return run_program(command);
  }
  std::string path(const std::string& name) const { return dir_ / name; }

 private:
  TempDir dir_;
};

const Json kBefore = prediction(
    16.5, {row("fwd", "conv", "gemm<1>", 9), row("fwd", "conv", "old", 4), row("bwd", "norms", "sum", 2.5),
           row("fwd", "norms", "sum", 1)});
const Json kAfter = prediction(
    15, {row("fwd", "conv", "gemm<1>", 9, 3), row("bwd", "norms", "sum", 2), row("fwd", "conv", "new", 3),
         row("fwd", "norms", "sum", 1)});

}  // namespace

TEST_CASE("compare_predictions/rows that differ, the largest change first, the total last") {
  if (no_python()) return;
  const Folder folder;
  const std::string before = folder.keep("before.json", kBefore), after = folder.keep("after.json", kAfter);
  const ProgramResult result = folder.compare({before, after});
  CAPTURE(result.err);
  CHECK(result.exit_code == 0);
  // "old" is gone, "new" came, "sum" of bwd is faster, "gemm<1>" is launched more often; "sum" of fwd is as it was.
  CHECK(
      result.out ==
      "part      line                          ms before      after    change  kernel\n"
      "fwd       conv                             4.0000          -   -4.0000  old\n"
      "fwd       conv                                  -     3.0000   +3.0000  new\n"
      "bwd       norms                            2.5000     2.0000   -0.5000  sum\n"
      "fwd       conv                             9.0000     9.0000   +0.0000  gemm<1>\n"
      "total                                       16.50      15.00     -1.50\n");
  const ProgramResult same = folder.compare({before, before});
  CHECK(same.exit_code == 0);
  CHECK(same.out == "total                                       16.50      16.50     +0.00\n");
}

TEST_CASE("compare_predictions/lines where one of the two has no kernels") {
  if (no_python()) return;
  const Folder folder;
  Json after = kAfter;
  after.erase("kernels");
  const ProgramResult result = folder.compare({folder.keep("before", kBefore), folder.keep("after", after)});
  CHECK(result.exit_code == 0);
  CHECK(
      result.out ==
      "part      line                          ms before      after    change\n"
      "fwd       conv                            16.5000    15.0000   -1.5000\n"
      "total                                       16.50      15.00     -1.50\n");
}

TEST_CASE("compare_predictions/errors/one line each") {
  if (no_python()) return;
  const Folder folder;
  const std::string good = folder.keep("good.json", kBefore);
  const auto says = [&](const std::vector<std::string>& words, const std::string& text) {
    const ProgramResult result = folder.compare(words);
    CAPTURE(result.err);
    CHECK(result.exit_code == 1);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK(result.err.starts_with("compare_predictions: " + text));
  };
  const auto with = [&](const char* key, const Json& value) {
    Json changed = kBefore;
    changed[key] = value;
    return folder.keep("changed.json", changed);
  };
  says({good, folder.path("none.json")}, folder.path("none.json") + ": No such file or directory");
  says({folder.path(""), good}, folder.path("") + ": Is a directory");
  says({good, folder.keep("text", std::string("no JSON"))}, folder.path("text") + ": not JSON (");
  says({good, folder.keep("bytes", std::string("\xff\xfe"))}, folder.path("bytes") + ": not JSON (");
  for (const char* other : {"[]", "{}", "3"})
    says({good, folder.keep("other", std::string(other))}, folder.path("other") + ": no prediction | expected what ");
  says(
      {good, with("kernels", Json::array({row("fwd", "conv", "k", 1), "k"}))}, folder.path("changed.json") + ": no pr");
  says({good, with("lines", "none")}, folder.path("changed.json") + ": no prediction");
  says({good, with("predicted_ms", "fast")}, folder.path("changed.json") + ": no prediction");
  says(
      {good, with("gpu", "H200 SXM")},
      "the predictions differ in gpu (A100 SXM 40 GB and H200 SXM) | compare two of the same step on the same device");
  says({good, with("clips", 3)}, "the predictions differ in clips (2 and 3)");
  says({good, with("model", Json::object())}, "the predictions differ in model |");
  CHECK(folder.compare({good}).exit_code == 2);
}

}  // namespace avid::test
