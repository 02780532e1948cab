// kernels/ptx/text.cpp -- see text.h
#include "kernels/ptx/text.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

namespace avid::kernels::ptx {
namespace {

[[noreturn]] void fail(std::uint32_t line, const std::string& what) {
  throw PtxError("ptx: line " + std::to_string(line) + ": " + what);
}

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%'; }

std::size_t number_in(std::string_view text, std::uint32_t line) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end == text.data()) fail(line, "expected a number, got '" + std::string(text) + "'");
  return value;
}

/// Walks over a text, counting lines; comments are blanks.
class Scanner {
 public:
  Scanner(std::string_view text, std::uint32_t line) : text_(text), line_(line) {}

  std::uint32_t line() const { return line_; }
  std::size_t at() const { return at_; }
  bool done() {
    skip_blanks();
    return at_ >= text_.size();
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool starts_with(std::string_view word) const { return text_.substr(at_).substr(0, word.size()) == word; }
  void advance(std::size_t n) {
    for (; n > 0 && at_ < text_.size(); --n)
      if (text_[at_++] == '\n') ++line_;
  }
  /// Up to, without, the first of `ends`; the end itself is passed over. Throws PtxError when there is none.
  std::string_view up_to(std::string_view ends, char* which = nullptr) {
    const std::size_t begin = at_, end = text_.find_first_of(ends, at_);
    if (end == std::string_view::npos) fail(line_, "expected one of '" + std::string(ends) + "' before the end");
    if (which != nullptr) *which = text_[end];
    advance(end - begin + 1);
    return trimmed(text_.substr(begin, end - begin));
  }
  std::string_view rest_of_line() {
    const std::size_t end = std::min(text_.find('\n', at_), text_.size());
    const std::string_view out = text_.substr(at_, end - at_);
    advance(end - at_);
    return trimmed(out);
  }
  std::string_view name() {
    skip_blanks();
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_name(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }
  /// What stands between this brace and the one that closes it.
  std::string_view braces() {
    const std::uint32_t first = line_;
    const std::size_t begin = at_ + 1;
    int depth = 0;
    for (; at_ < text_.size(); advance(1)) {
      if (starts_with("//")) rest_of_line();
      if (peek() == '{') ++depth;
      if (peek() == '}' && --depth == 0) {
        advance(1);
        return text_.substr(begin, at_ - 1 - begin);
      }
    }
    fail(first, "a brace that nothing closes");
  }
  void skip_blanks() {
    while (at_ < text_.size()) {
      if (std::isspace(static_cast<unsigned char>(text_[at_])) != 0)
        advance(1);
      else if (starts_with("//"))
        rest_of_line();
      else
        break;
    }
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
  std::uint32_t line_;
};

/// `.loc file line column [, function_name name[+offset], inlined_at file line column]`: where the code stands.
void read_location(std::string_view text, Statement& at) {
  Scanner words(text, at.line);
  words.advance(4);
  at.source_file = static_cast<std::uint32_t>(number_in(words.name(), at.line));
  at.source_line = static_cast<std::uint32_t>(number_in(words.name(), at.line));
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> pieces;
  for (std::size_t end; (end = text.find(at)) != std::string_view::npos; text.remove_prefix(end + 1))
    pieces.push_back(text.substr(0, end));
  pieces.push_back(text);
  return pieces;
}

std::vector<std::string_view> split_operands(std::string_view text) {
  std::vector<std::string_view> pieces;
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '{' || text[i] == '[') ++depth;
    if (text[i] == '}' || text[i] == ']') --depth;
    if (text[i] == ',' && depth == 0) {
      pieces.push_back(trimmed(text.substr(begin, i - begin)));
      begin = i + 1;
    }
  }
  if (const std::string_view last = trimmed(text.substr(begin)); !last.empty()) pieces.push_back(last);
  return pieces;
}

Variable read_variable(std::string_view declaration, std::uint32_t line) {
  Variable variable;
  std::size_t element = 0;
  std::string_view values;
  if (const std::size_t equal = declaration.find('='); equal != std::string_view::npos) {
    values = trimmed(declaration.substr(equal + 1));
    declaration = trimmed(declaration.substr(0, equal));
  }
  Scanner words(declaration, line);
  while (!words.done() && words.peek() == '.') {
    words.advance(1);
    const std::string_view word = words.name();
    if (word == "extern") variable.is_extern = true;
    if (word == "shared") variable.space = Variable::Space::shared;
    if (word == "local") variable.space = Variable::Space::local;
    if (word == "global" || word == "const") variable.space = Variable::Space::global;
    if (word == "align") variable.alignment = number_in(words.name(), line);
    if (word.size() > 1 && std::isdigit(static_cast<unsigned char>(word[1])) != 0)
      element = number_in(word.substr(1), line) / 8;
  }
  variable.name = words.name();
  if (variable.name.empty() || element == 0) fail(line, "not a variable: '" + std::string(declaration) + "'");
  variable.bytes = element;
  variable.alignment = std::max(variable.alignment, element);
  while (!words.done() && words.peek() == '[') {
    words.advance(1);
    const std::string_view count = words.up_to("]");
    variable.bytes *= count.empty() ? 0 : number_in(count, line);
  }
  if (!values.empty()) {
    if (element != 1 || values.front() != '{') fail(line, "values of bytes in braces are known, no others");
    for (const std::string_view value : split_operands(values.substr(1, values.size() - 2)))
      variable.values.push_back(static_cast<unsigned char>(number_in(value, line)));
  }
  return variable;
}

ModuleText read_module(std::string_view text) {
  ModuleText module;
  Scanner scan(text, 1);
  while (!scan.done()) {
    const std::uint32_t line = scan.line();
    if (scan.starts_with(".version") || scan.starts_with(".address_size")) {
      scan.rest_of_line();
    } else if (scan.starts_with(".target")) {
      scan.advance(7);
      module.target = std::string(split_operands(scan.rest_of_line()).front());
    } else if (scan.starts_with(".file")) {
      scan.advance(5);
      const std::string_view number = scan.name();
      const std::vector<std::string_view> quoted = split(scan.rest_of_line(), '"');
      if (quoted.size() >= 2)
        module.files[static_cast<std::uint32_t>(number_in(number, line))] = std::string(quoted[1]);
    } else if (scan.starts_with(".section")) {
      while (scan.peek() != '{' && scan.peek() != '\0') scan.advance(1);
      scan.braces();
    } else if (scan.peek() == '.') {
      // Everything else is a variable, which ends with a semicolon, or an entry, which has a parenthesis first.
      std::size_t probe = text.find_first_of(";(", scan.at());
      if (probe == std::string_view::npos) fail(line, "neither a variable nor an entry");
      if (text[probe] == ';') {
        module.variables.push_back(read_variable(scan.up_to(";"), line));
        continue;
      }
      Entry entry;
      const std::string_view head = scan.up_to("(");
      const std::size_t at = head.find(".entry");
      if (at == std::string_view::npos) fail(line, "functions are not known: '" + std::string(head) + "'");
      entry.name = trimmed(head.substr(at + 6));
      entry.parameters = scan.up_to(")");
      const std::size_t begin = scan.at();
      while (scan.peek() != '{' && scan.peek() != '\0') scan.advance(1);
      entry.attributes = trimmed(text.substr(begin, scan.at() - begin));
      entry.line = scan.line();
      entry.body = scan.braces();
      module.entries.push_back(entry);
    } else {
      fail(line, "not a directive");
    }
  }
  return module;
}

std::vector<Statement> read_body(const Entry& entry) {
  std::vector<Statement> body;
  Scanner scan(entry.body, entry.line);
  Statement here;  // its place in the source is that of the statements to come
  while (!scan.done()) {
    here.line = scan.line();
    here.guard = here.text = {};
    if (scan.starts_with(".loc\t") || scan.starts_with(".loc ")) {
      read_location(scan.rest_of_line(), here);
      continue;
    }
    if (scan.starts_with(".pragma")) {
      scan.up_to(";");
      continue;
    }
    if (scan.peek() == '{' || scan.peek() == '}') {
      here.kind = scan.peek() == '{' ? Statement::Kind::open : Statement::Kind::close;
      scan.advance(1);
    } else if (scan.peek() == '.') {
      here.kind = scan.starts_with(".reg") ? Statement::Kind::registers : Statement::Kind::variable;
      here.text = scan.up_to(";");
    } else {
      if (scan.peek() == '@') {
        scan.advance(1);
        const std::size_t begin = scan.at();
        if (scan.peek() == '!') scan.advance(1);
        scan.name();
        here.guard = entry.body.substr(begin, scan.at() - begin);
        scan.skip_blanks();
      }
      const Scanner before = scan;
      const std::string_view name = scan.name();
      if (scan.peek() == ':' && !scan.starts_with("::")) {
        scan.advance(1);
        here.kind = Statement::Kind::label;
        here.text = name;
      } else {
        scan = before;
        here.kind = Statement::Kind::instruction;
        here.text = scan.up_to(";");
      }
    }
    body.push_back(here);
  }
  return body;
}

}  // namespace avid::kernels::ptx
