// tests/cli/report_browser_test.cpp -- the report in a headless browser, as a phone and as a desk sees it, network off
//
// One page holds the report in frames of several widths, asks the browser what it made of each, and writes the answers
// into its own text (--dump-dom). A spoilt copy of the report stands beside it: every check must find its fault there.
#include <cstdlib>
#include <map>
#include <regex>

#include <nlohmann/json.hpp>

#include "tests/cli/report_fixture.h"
#include "tests/doctest.h"

namespace avid::test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// AVID_BROWSER, or a Chromium under one of its names on the PATH; empty when there is none.
std::string find_browser() {
  if (const char* named = std::getenv("AVID_BROWSER")) return named;
  const char* path = std::getenv("PATH");
  std::string folders = path == nullptr ? "" : path;
  for (std::size_t begin = 0; begin <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', begin), folders.size());
    for (const char* name : {"chromium", "chromium-browser", "google-chrome", "chrome"}) {
      const fs::path candidate = fs::path(folders.substr(begin, end - begin)) / name;
      std::error_code ignored;
      if (fs::is_regular_file(candidate, ignored)) return candidate;
    }
    begin = end + 1;
  }
  return "";
}

/// Every name and address leads nowhere; nothing is asked of the browser's maker.
std::vector<std::string> browser(const fs::path& profile) {
  return {
      find_browser(),
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--no-first-run",
      "--disable-extensions",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--hide-scrollbars",
      "--allow-file-access-from-files",
      "--host-resolver-rules=MAP * ~NOTFOUND",
      "--proxy-server=127.0.0.1:9",
      "--enable-logging=stderr",
      "--user-data-dir=" + profile.string()};
}

bool no_browser() {
  if (!find_browser().empty()) return false;
  MESSAGE("skipped: no browser on this machine (chromium, or AVID_BROWSER=its path)");
  return true;
}

struct Frame {
  const char *name, *file;
  int width, height;
};

/// A page with the frames, and what it finds out about each when all have loaded.
std::string harness(const std::vector<Frame>& frames) {
  std::string html = "<!doctype html><html><body style=\"margin:0\">\n";
  for (const Frame& f : frames)
    html += "<iframe id=\"" + std::string(f.name) + "\" src=\"" + f.file + "\" width=\"" + std::to_string(f.width) +
            "\" height=\"" + std::to_string(f.height) + "\" style=\"border:0\"></iframe>\n";
  return html + R"(<pre id="answers"></pre><script>
addEventListener('load', () => {
  const answers = {};
  for (const frame of document.querySelectorAll('iframe')) {
    const w = frame.contentWindow, d = w.document, root = d.documentElement;
    const images = [...d.images], shown = (e) => e.getClientRects().length > 0;
    answers[frame.id] = {
      inner: w.innerWidth, wide: root.scrollWidth,
      outside: w.performance.getEntriesByType('resource').map((e) => e.name),
      broken: images.filter((i) => shown(i) && !(i.complete && i.naturalWidth > 0)).length,
      gifs: images.filter((i) => i.src.startsWith('data:image/gif') && i.naturalWidth > 0).length,
      svgs: d.querySelectorAll('section svg').length,
      narrow: [...d.querySelectorAll('section svg')]
        .filter((s) => shown(s) && s.getBoundingClientRect().width < 250).length,
      tables: d.querySelectorAll('section table').length,
      free: [...d.querySelectorAll('table')].filter((t) => !t.closest('.scroll')).length,
      rows: d.querySelectorAll('#table1 tr').length,
      small: [...d.querySelectorAll('td,p,th')].filter((e) => parseFloat(w.getComputedStyle(e).fontSize) < 11).length,
      dead: [...d.querySelectorAll('nav a')].filter((a) => !d.querySelector(a.getAttribute('href'))).length,
    };
  }
  document.getElementById('answers').textContent = JSON.stringify(answers);
});
</script></body></html>
)";
}

/// What stands in <pre id="answers">, with the characters that HTML writes otherwise.
Json answers_in(const std::string& dom) {
  const std::string mark = "<pre id=\"answers\">";
  const std::size_t begin = dom.find(mark), end = dom.find("</pre>", begin);
  if (begin == std::string::npos || end == std::string::npos) return {};
  std::string text = dom.substr(begin + mark.size(), end - begin - mark.size());
  text = std::regex_replace(text, std::regex("&quot;"), "\"");
  text = std::regex_replace(text, std::regex("&lt;"), "<");
  return Json::parse(std::regex_replace(text, std::regex("&amp;"), "&"), nullptr, false);
}

}  // namespace

TEST_CASE("report_browser/dom/phone_and_desk_offline") {
  if (no_browser()) return;
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  std::string spoilt = read_text(dir / "report.html");
  spoilt.insert(
      spoilt.find("<main"),
      "<div style=\"width:900px\">wide</div><img src=\"http://127.0.0.1:9/away.png\"><table><tr><td "
      "style=\"font-size:6px\">x</td></tr></table><script>console.error('spoilt on purpose')</script>");
  write_text_atomic(dir / "spoilt.html", spoilt);
  write_text_atomic(
      dir / "harness.html", harness(
                                {{"phone", "report.html", 360, 780},
                                 {"wide_phone", "report.html", 414, 896},
                                 {"desk", "report.html", 1280, 900},
                                 {"spoilt", "spoilt.html", 360, 780}}));
  auto words = browser(dir / "profile");
  words.insert(words.end(), {"--dump-dom", "file://" + (dir / "harness.html").string()});
  const ProgramResult result = run_program(words);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const Json answers = answers_in(result.out);
  REQUIRE(answers.is_object());

  for (const auto& [name, width] : std::map<std::string, int>{{"phone", 360}, {"wide_phone", 414}, {"desk", 1280}}) {
    CAPTURE(name);
    const Json& a = answers[name];
    CAPTURE(a.dump());
    CHECK(a["inner"] == width);
    CHECK(a["wide"] == width);  // the page does not scroll sideways; tables do, by themselves
    CHECK(a["outside"].empty());
    CHECK(a["broken"] == 0);
    CHECK(a["gifs"] == 2);
    CHECK(a["svgs"].get<int>() >= 10);
    CHECK(a["narrow"] == 0);
    CHECK(a["tables"].get<int>() >= 8);
    CHECK(a["free"] == 0);
    CHECK(a["rows"].get<int>() >= 10);
    CHECK(a["small"] == 0);
    CHECK(a["dead"] == 0);
  }
  const Json& spoilt_answers = answers["spoilt"];
  CHECK(spoilt_answers["wide"].get<int>() > 360);
  CHECK(spoilt_answers["outside"].size() == 1);
  CHECK(spoilt_answers["broken"] == 1);
  CHECK(spoilt_answers["free"] == 1);
  CHECK(spoilt_answers["small"] == 1);
  // The console speaks through the log: of the spoilt copy only.
  std::size_t spoken = 0;
  for (std::size_t at = 0; (at = result.err.find("CONSOLE", at)) != std::string::npos; ++at) {
    const std::string line = result.err.substr(at, result.err.find('\n', at) - at);
    CAPTURE(line);
    CHECK(line.find("spoilt") != std::string::npos);
    ++spoken;
  }
  CHECK(spoken >= 1);
}

TEST_CASE("report_browser/screenshot/not_blank") {
  if (no_browser() || !full_level()) return;
  const TempDir dir;
  write_made_up_report_inputs(dir.path());
  REQUIRE(run_report(dir.path()).exit_code == 0);
  auto words = browser(dir / "profile");
  words.insert(
      words.end(), {"--window-size=1280,1600", "--screenshot=" + (dir / "page.png").string(),
                    "file://" + (dir / "report.html").string()});
  const ProgramResult result = run_program(words);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  const std::string png = read_text(dir / "page.png");
  REQUIRE(png.size() > 30000);  // an empty white page of this size packs to a few thousand bytes
  const auto big_endian = [&](std::size_t at) {
    int value = 0;
    for (std::size_t i = at; i < at + 4; ++i) value = value * 256 + static_cast<unsigned char>(png[i]);
    return value;
  };
  CHECK(big_endian(16) == 1280);
  CHECK(big_endian(20) == 1600);
}

}  // namespace avid::test
