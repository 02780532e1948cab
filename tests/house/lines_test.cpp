// tests/house/lines_test.cpp -- sources and documents keep to 120 columns and to plain text; a wrong line is named
#include <fstream>

#include "tests/doctest.h"
#include "tests/support.h"

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kColumns = 120;  // .clang-format's

std::size_t characters(const std::string& utf8) {
  std::size_t count = 0;
  for (const char c : utf8) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // not a byte inside a character
  return count;
}

bool is_source(const fs::path& file) {
  for (const char* extension : {".h", ".cpp", ".cu"})
    if (file.extension() == extension) return true;
  return false;
}

/// Tables, quoted code, addresses, pictures and what was printed or is to be typed (indented, or between fences) stand
/// on one line in a document.
bool may_be_long(const std::string& line) {
  return line.starts_with("|") || line.starts_with("- `") || line.starts_with("    ") ||
         line.find("://") != std::string::npos || line.find("![") != std::string::npos;
}

std::vector<std::string> wrong_lines(const fs::path& root) {
  std::vector<std::string> wrong;
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::recursive_directory_iterator(); ++entry) {
    const std::string name = entry->path().filename().string();
    // Build folders, runs, what scripts fetch; reference tensors come with tables of their own.
    const bool foreign = name.starts_with(".") || name.starts_with("build") || name == "third_party" ||
                         name == "runs" || name == "golden";
    if (entry->is_directory() && foreign) {
      entry.disable_recursion_pending();
      continue;
    }
    const bool document = entry->path().extension() == ".md";
    if (!entry->is_regular_file() || !(document || is_source(entry->path()))) continue;
    std::ifstream in(entry->path());
    std::string line;
    bool fenced = false;
    for (int number = 1; std::getline(in, line); ++number) {
      if (line.starts_with("```")) fenced = !fenced;
      const auto say = [&](const char* what) {
        wrong.push_back(fmt::format("{}:{}: {}", fs::relative(entry->path(), root).string(), number, what));
      };
      if (characters(line) > kColumns && !(document && (fenced || may_be_long(line)))) say("longer than 120 columns");
      if (line.find('\t') != std::string::npos) say("a tabulator");
      if (line.ends_with(' ') || line.ends_with('\r')) say("ends in blanks");
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("lines/all/sources and documents keep to 120 columns, without tabulators and blanks at the end") {
  for (const std::string& line : wrong_lines(AVID_SOURCE_DIR)) FAIL_CHECK(line);
}

TEST_CASE("lines/all/planted long lines, tabulators and blanks are found, and what may be long is not") {
  const avid::test::TempDir dir;
  fs::create_directories(dir / "build-x");
  const std::string full(120, 'x'), wide = full.substr(1) + "\u00e4", more(121, 'x');
  std::ofstream(dir / "good.cpp") << full << "\n" << wide << "\n";
  std::ofstream(dir / "bad.h") << more << "\nint a;\tint b;\nint c; \n";
  std::ofstream(dir / "page.md") << "| " << more << "\n"
                                 << more << "\nhttps://" << more << "\n    " << more << "\n"
                                 << "```\n"
                                 << more << "\n```\n"
                                 << more << "\n";
  std::ofstream(dir / "build-x/made.cpp") << more << "\n";
  std::vector<std::string> wrong = wrong_lines(dir.path());
  std::sort(wrong.begin(), wrong.end());
  const std::vector<std::string> expected = {
      "bad.h:1: longer than 120 columns", "bad.h:2: a tabulator", "bad.h:3: ends in blanks",
      "page.md:2: longer than 120 columns", "page.md:8: longer than 120 columns"};
  CHECK(wrong == expected);
}
