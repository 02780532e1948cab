// kernels/sim/report.cpp -- where it happened, in words. Slow paths only: everything here runs once something is wrong
#include "kernels/sim/report.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/device/gpu_sim.h"
#include "kernels/sim/engine.h"

namespace avid::kernels::simulator {
namespace {

std::mutex sites_mutex;
std::vector<std::string> sites;  // texts of place_of()

std::string file_name(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

/// The symbol that covers `address` in an ELF file loaded at `base`. dladdr only knows exported ones; kernels are not.
std::string symbol_in_file(const char* path, std::uintptr_t base, std::uintptr_t address) {
  std::ifstream in(path, std::ios::binary);
  Elf64_Ehdr header{};
  if (!in.read(reinterpret_cast<char*>(&header), sizeof header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return {};
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  in.seekg(static_cast<std::streamoff>(header.e_shoff));
  if (!in.read(
          reinterpret_cast<char*>(sections.data()), static_cast<std::streamsize>(sections.size() * sizeof(Elf64_Shdr))))
    return {};
  const std::uintptr_t wanted = header.e_type == ET_DYN ? address - base : address;
  for (const Elf64_Shdr& table : sections) {
    if (table.sh_type != SHT_SYMTAB || table.sh_link >= sections.size()) continue;
    std::vector<Elf64_Sym> symbols(table.sh_size / sizeof(Elf64_Sym));
    in.seekg(static_cast<std::streamoff>(table.sh_offset));
    in.read(reinterpret_cast<char*>(symbols.data()), static_cast<std::streamsize>(symbols.size() * sizeof(Elf64_Sym)));
    for (const Elf64_Sym& symbol : symbols) {
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || wanted < symbol.st_value ||
          wanted >= symbol.st_value + symbol.st_size)
        continue;
      std::string name;
      in.seekg(static_cast<std::streamoff>(sections[table.sh_link].sh_offset + symbol.st_name));
      std::getline(in, name, '\0');
      return name;
    }
  }
  return {};
}

std::string readable(const std::string& symbol) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status), std::free);
  std::string name = status == 0 ? text.get() : symbol;
  // "void avid::kernels::sim::f_kernel<float>(Args<float>)" -> "f_kernel<float>"
  for (const char* space : {"avid::kernels::sim::", "avid::kernels::", "avid::", "(anonymous namespace)::"})
    for (std::size_t at; (at = name.find(space)) != std::string::npos;) name.erase(at, std::strlen(space));
  int depth = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    depth += (name[i] == '<') - (name[i] == '>');
    if (name[i] == '(' && depth == 0 && i > 0) {
      name.resize(i);
      break;
    }
  }
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  return name;
}

std::string text_of(sim::uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

/// Where the file that contains `address` lies, and where it was loaded.
bool find_module(const void* address, Dl_info* info, std::string* path) {
  if (dladdr(address, info) == 0 || info->dli_fname == nullptr) return false;
  // The program itself is known by argv[0], which need not be its file (`avid bench kernels --sim` starts another one).
  const bool program = std::strcmp(info->dli_fname, program_invocation_name) == 0 || access(info->dli_fname, R_OK) != 0;
  *path = program ? "/proc/self/exe" : info->dli_fname;
  return true;
}

}  // namespace

std::string text_of(const Site& site) {
  return site.line() == 0 ? std::string() : file_name(site.file_name()) + ":" + std::to_string(site.line());
}

std::string function_name(const void* address) {
  Dl_info info{};
  std::string path;
  if (!find_module(address, &info, &path)) return "?";
  if (info.dli_sname != nullptr && info.dli_saddr == address) return readable(info.dli_sname);
  const std::string symbol = symbol_in_file(
      path.c_str(), reinterpret_cast<std::uintptr_t>(info.dli_fbase), reinterpret_cast<std::uintptr_t>(address));
  return symbol.empty() ? "?" : readable(symbol);
}

std::uintptr_t place_of(const Site& site) {
  // Most calls repeat the last place: look there before taking the lock.
  thread_local std::vector<std::pair<Site, std::uintptr_t>> seen;
  for (const auto& [known, place] : seen)
    if (known.line() == site.line() && known.file_name() == site.file_name()) return place;
  const std::lock_guard lock(sites_mutex);
  const std::string text = text_of(site);
  auto found = std::find(sites.begin(), sites.end(), text);
  if (found == sites.end()) found = sites.insert(sites.end(), text);
  seen.emplace_back(site, kPlaceIsSite | static_cast<std::uintptr_t>(found - sites.begin()));
  return seen.back().second;
}

std::string source_line(std::uintptr_t pc) {
  if ((pc & kPlaceIsSite) != 0) {
    const std::lock_guard lock(sites_mutex);
    return sites[pc & ~kPlaceIsSite];
  }
  Dl_info info{};
  std::string path;
  const auto* address = reinterpret_cast<const void*>(pc - 1);  // pc is a return address
  if (!find_module(address, &info, &path)) return "?";
  if (path == "/proc/self/exe") {
    char target[4096];
    const ssize_t length = readlink(path.c_str(), target, sizeof target - 1);
    if (length > 0) path.assign(target, static_cast<std::size_t>(length));
  }
  char command[4600];
  std::snprintf(
      command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", path.c_str(),
      static_cast<std::size_t>(
          reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(info.dli_fbase)));
  std::vector<std::string> frames;  // innermost first
  if (FILE* pipe = popen(command, "r")) {
    char line[4096];
    while (std::fgets(line, sizeof line, pipe) != nullptr) {
      std::string frame = line;
      frame.resize(frame.find_first_of(" \n"));
      if (frame.find("??") == std::string::npos && frame.find("bits/") == std::string::npos &&
          frame.find("device/gpu_sim.h") == std::string::npos)
        frames.push_back(file_name(frame));
    }
    pclose(pipe);
  }
  if (frames.empty()) return function_name(address);
  const std::string inner_file = frames[0].substr(0, frames[0].find(':'));
  for (std::size_t i = 1; i < frames.size(); ++i)
    if (frames[i].substr(0, frames[i].find(':')) != inner_file) return frames[0] + " (from " + frames[i] + ")";
  return frames[0];
}

std::string place_of_failure() {
  const Engine& e = engine();
  std::string text = "kernel simulator: " + function_name(e.launch().kernel) + ": block " + text_of(sim::blockIdx);
  if (e.in_kernel()) text += " thread " + text_of(engine().current().index);
  return text;
}

void fail(ErrorKind kind, const std::string& message, Site site) {
  Engine& e = engine();
  const std::string at = text_of(site);
  SimError error(kind, place_of_failure() + (at.empty() ? "" : " at " + at) + ": " + message);
  // The compiler takes instrumentation calls for nothrow: leave by a jump. Elsewhere this fiber unwinds, the others
  // do not.
  if (inside_hook()) e.abandon_block(std::make_exception_ptr(error));
  throw error;
}

}  // namespace avid::kernels::simulator

#if AVID_SIM_ASAN
/// AddressSanitizer calls this before its own report.
extern "C" void __asan_on_error() {
  using namespace avid::kernels::simulator;
  if (engine_of_this_thread == nullptr || !engine().in_kernel()) return;
  std::fprintf(
      stderr, "%s: bad access to %s\n", place_of_failure().c_str(),
      engine().shared.describe(__asan_get_report_address()).c_str());
}
#endif
