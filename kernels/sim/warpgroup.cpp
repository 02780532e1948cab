// kernels/sim/warpgroup.cpp -- see warpgroup.h
//
// A matrix descriptor, as the PTX manual lays it out, addresses rows of 16 two-byte elements (two chunks of 16 bytes):
//   bits 0-13   start address / 16          bits 16-29  leading dimension offset / 16 (without swizzle only)
//   bits 32-45  stride offset / 16: from 8 rows to the next 8
//   bits 62-63  swizzle: 0 none, 1 128, 2 64, 3 32 bytes
// Swizzled: row r, chunk c at start + r/8 * stride + r%8 * W + 16 c, then address bits 4.. XOR the bits from 7 on
// (three of them for W = 128, two for 64, one for 32). Without: at start + r/8 * stride + r%8 * 16 + c * leading.
// Transposed, a chunk is eight rows at one k, and chunk c is that of rows 8 c to 8 c + 7. Swizzled: at start
// + c/(W/16) * leading + k/8 * stride + k%8 * W + c%(W/16) * 16, then XOR as above. Without: at start + c * stride
// + k/8 * leading + k%8 * 16.
#include "kernels/sim/warpgroup.h"

#include <algorithm>
#include <cstring>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"
#include "kernels/sim/rounding.h"

#if AVID_SIM_ASAN
extern "C" void __asan_loadN(void*, std::size_t);
#endif

namespace avid::kernels::simulator {
namespace {

constexpr int kRows = 16;                         // of D and A that one warp computes
constexpr int kOfA = 16 * kRows;                  // elements
constexpr std::uint32_t kInFlight = 0x7fdeadffu;  // NaN: what a program finds in an accumulator too early
constexpr std::uint32_t kFenceBits = 20;

/// Where operand rows lie.
struct Descriptor {
  std::uint32_t start, leading, stride, width;  // bytes; width 16: no swizzle
  Descriptor(std::uint64_t bits, bool transposed, const char* operand, Site site)
      : start(field(bits, 0)), leading(field(bits, 16)), stride(field(bits, 32)), width(16) {
    const auto wrong = [&](const char* what) {
      fail(ErrorKind::bad_operand, std::string("wgmma: descriptor of ") + operand + ": " + what, site);
    };
    if ((bits & 0x3fffc000c000c000ull) != 0)
      wrong("bits set that have no meaning here (base offsets are not modelled)");
    if (const auto mode = bits >> 62; mode != 0) width = 256u >> mode;
    if (width == 16 && leading == 0) wrong("two chunks in one place (leading offset 0)");
    // The pattern of a swizzle repeats every 8 rows and follows address bits: a tile starts where a pattern does.
    if (width > 16 && start % (8 * width) >= width)
      wrong("the tile does not start at a multiple of its swizzle pattern");
    if (width > 16 && transposed && start % width != 0) wrong("a transposed tile starts inside its swizzle pattern");
    if (width > 16 && start % width + 32 > width) wrong("two chunks from here on cross a row of the swizzle pattern");
  }
  std::uint32_t chunk(int row, int c) const {
    const auto r = static_cast<std::uint32_t>(row), k = static_cast<std::uint32_t>(c);
    if (width == 16) return start + r / 8 * stride + r % 8 * 16 + k * leading;
    const std::uint32_t at = start + r / 8 * stride + r % 8 * width + k * 16;
    return swizzled(at);
  }
  /// Rows 8 c to 8 c + 7 at k.
  std::uint32_t transposed_chunk(int c, int k) const {
    const auto column = static_cast<std::uint32_t>(c), row = static_cast<std::uint32_t>(k), of_row = width / 16;
    if (width == 16) return start + column * stride + row / 8 * leading + row % 8 * 16;
    return swizzled(start + column / of_row * leading + row / 8 * stride + row % 8 * width + column % of_row * 16);
  }

 private:
  std::uint32_t swizzled(std::uint32_t at) const { return at ^ ((at >> 3) & (width - 16)); }
  static std::uint32_t field(std::uint64_t bits, int shift) {
    return static_cast<std::uint32_t>(bits >> shift & 0x3fff) * 16;
  }
};

float to_f32(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

/// Row and column, in a warp's part of D, of register r of a lane: as for mma, in blocks of eight columns.
int row_of(int lane, int r) { return (lane >> 2) + 8 * (r >> 1 & 1); }
int column_of(int lane, int r) { return 8 * (r >> 2) + 2 * (lane & 3) + (r & 1); }

}  // namespace

void Warpgroups::begin_block() {
  warps_.clear();
  issued_.clear();
  if (any_generic_write_) std::fill(generic_writer_.begin(), generic_writer_.end(), 0u);
  any_generic_write_ = false;
}

Warpgroups::Warp& Warpgroups::warp(std::uint32_t number) {
  if (warps_.empty()) warps_ = std::vector<Warp>(32);
  return warps_[number];
}

std::string Warpgroups::unfinished() const {
  for (const Warp& w : warps_)
    if (!w.products.empty()) return "a wgmma that was never waited for, issued at " + text_of(w.products[0].site);
  for (std::size_t i = 0; i < warps_.size(); ++i)
    if (i / 4 < issued_.size() && warps_[i].num_issued != issued_[i / 4].size())
      return "a wgmma that warp " + std::to_string(i) + " of its warpgroup took no part in, issued at " +
             text_of(issued_[i / 4][warps_[i].num_issued].site);
  return {};
}

void Warpgroups::note_generic_write(std::size_t offset, unsigned bytes, const Thread& thread) {
  if (generic_writer_.empty()) generic_writer_.resize(SharedMemory::kArenaBytes / 16);
  any_generic_write_ = true;
  const std::uint32_t writer = (thread.number + 1) << kFenceBits | (thread.proxy_fences & ((1u << kFenceBits) - 1));
  for (std::size_t i = offset / 16; i <= (offset + bytes - 1) / 16; ++i) generic_writer_[i] = writer;
}

int Warpgroups::writer_without_proxy_fence(std::size_t offset, unsigned bytes) const {
  if (!any_generic_write_) return -1;
  for (std::size_t i = offset / 16; i <= (offset + bytes - 1) / 16; ++i) {
    const std::uint32_t w = generic_writer_[i], writer = (w >> kFenceBits) - 1;
    if (w != 0 && ((engine().thread(writer).proxy_fences ^ w) & ((1u << kFenceBits) - 1)) == 0)
      return static_cast<int>(writer);
  }
  return -1;
}

std::vector<std::uint16_t> Warpgroups::read_operands(std::uint32_t warp, const Sources& sources, int n, Site site) {
  const bool transposed = sources.transposed;
  Engine& e = engine();
  const Thread& reader = e.thread(warp * 32);
  std::vector<std::uint16_t> rows(static_cast<std::size_t>(kRows + n) * 16);
  const auto unordered = [&](std::uint32_t writer, const void* at) {
    fail(
        ErrorKind::proxy_fence,
        "wgmma reads " + e.shared.describe(at) + ", written by thread " + std::to_string(writer) +
            " without a fence_proxy_async of that thread behind it",
        site);
  };
  const auto read = [&](std::uint32_t offset, std::uint16_t* to) {
    const void* at = e.shared.at(offset);
    if (!e.shared.contains(at)) fail(ErrorKind::misaligned, "wgmma: an operand is not in shared memory", site);
    if (const int writer = writer_without_proxy_fence(offset, 16); writer >= 0)
      unordered(static_cast<std::uint32_t>(writer), at);
    if (have_race_hooks() && options().detect_races) {
      e.races.access(reinterpret_cast<std::uintptr_t>(at), 16, Access::read, reader, place_of(site));
      if (const int writer = e.races.writer_without_proxy_fence(at, 16); writer >= 0)
        unordered(static_cast<std::uint32_t>(writer), at);
    }
#if AVID_SIM_ASAN
    __asan_loadN(const_cast<void*>(at), 16);
#endif
    std::memcpy(to, at, 16);
  };
  /// `count` rows from `first` on; rows[16 i + k].
  const auto read_rows = [&](const Descriptor& from, int first, int count, std::uint16_t* to) {
    if (!transposed) {
      for (int r = 0; r < count; ++r)
        for (int c = 0; c < 2; ++c) read(from.chunk(first + r, c), to + 16 * r + 8 * c);
      return;
    }
    for (int c = 0; c < count / 8; ++c)
      for (int k = 0; k < 16; ++k) {
        std::uint16_t eight[8];
        read(from.transposed_chunk(first / 8 + c, k), eight);
        for (int r = 0; r < 8; ++r) to[16 * (8 * c + r) + k] = eight[r];
      }
  };
  if (sources.fragments[0] != nullptr) {
    for (int i = 0; i < 32; ++i)
      for (int r = 0; r < 4; ++r) {
        const std::uint32_t pair = sources.fragments[static_cast<std::size_t>(i)][r];
        std::uint16_t* const to = rows.data() + 16 * (i / 4 + r % 2 * 8) + 2 * (i % 4) + r / 2 * 8;
        to[0] = static_cast<std::uint16_t>(pair), to[1] = static_cast<std::uint16_t>(pair >> 16);
      }
  } else {
    read_rows(Descriptor(sources.a, transposed, "A", site), static_cast<int>(warp % 4) * kRows, kRows, rows.data());
  }
  read_rows(Descriptor(sources.b, transposed, "B", site), 0, n, rows.data() + kOfA);
  return rows;
}

Warpgroups::Accumulator& Warpgroups::accumulator_of(std::uint32_t number, const WgmmaOperands* const* lane) {
  Warp& w = warp(number);
  for (const auto& acc : w.accumulators)
    if (acc->registers[0] == lane[0]->d && acc->n == lane[0]->n) return *acc;
  if (!w.registers_ordered)
    fail(
        ErrorKind::wgmma, "wgmma: no wgmma_fence since the program may have used these accumulator registers",
        lane[0]->site);
  auto acc = std::make_unique<Accumulator>();
  acc->n = lane[0]->n;
  acc->num_pending = 0;
  acc->value.resize(static_cast<std::size_t>(kRows) * acc->n);
  for (int i = 0; i < 32; ++i) {
    acc->registers[static_cast<std::size_t>(i)] = lane[i]->d;
    for (int r = 0; r < acc->n / 2; ++r) {
      acc->value[static_cast<std::size_t>(row_of(i, r) * acc->n + column_of(i, r))] = lane[i]->d[r];
      lane[i]->d[r] = std::bit_cast<float>(kInFlight);
    }
  }
  w.accumulators.push_back(std::move(acc));
  return *w.accumulators.back();
}

void Warpgroups::issue(std::uint32_t number, const WgmmaOperands* const* lane) {
  const WgmmaOperands& x = *lane[0];
  Engine& e = engine();
  require_arch(90, "wgmma", x.site);
  const std::uint32_t group = number / 4;
  const sim::dim3 block = e.launch().block;
  if (block.x * block.y * block.z < (group + 1) * 128)
    fail(ErrorKind::dead_lane, "wgmma needs a warpgroup, four whole warps from a multiple of four on", x.site);
  for (int i = 1; i < 32; ++i)
    if (lane[i]->a != x.a || lane[i]->b != x.b)
      fail(ErrorKind::bad_operand, "wgmma: the lanes of a warp give different descriptors", x.site);
  if (BlockWork* work = e.traffic.work()) {
    // Each warp has its 16 rows of A to itself; what it takes of B, three others take with it.
    const auto n = static_cast<std::uint64_t>(x.n);
    work->wgmma += 16 * 16 * n;
    ++work->mma_instructions;
    work->passes += ((x.fragment == nullptr ? 16 * 32 : 0) + n * 32 / 4 + 127) / 128;
    return;
  }
  Warp& w = warp(number);
  if (issued_.size() <= group) issued_.resize(8);
  std::vector<Issued>& all = issued_[group];
  const bool has_fragment = x.fragment != nullptr;
  if (w.num_issued == all.size()) all.push_back({x.a, x.b, x.n, x.adds, x.transposed, has_fragment, x.site});
  const Issued& same = all[w.num_issued];
  if (same.a != x.a || same.b != x.b || same.n != x.n || same.adds != x.adds || same.transposed != x.transposed ||
      same.has_fragment != has_fragment)
    fail(
        ErrorKind::divergent_warp,
        "wgmma: warps of one warpgroup give different operands, another at " + text_of(same.site), x.site);

  if (has_fragment && !w.fragment_ordered)
    fail(ErrorKind::wgmma, "wgmma: no wgmma_fence since the program may have written the registers of A", x.site);
  if (has_fragment) w.fragment_ordered = false;
  Sources sources = {x.a, x.b, x.transposed, {}};
  for (std::size_t i = 0; i < 32; ++i) sources.fragments[i] = lane[i]->fragment;
  std::vector<std::uint16_t> rows = read_operands(number, sources, x.n, x.site);
  Accumulator& acc = accumulator_of(number, lane);
  if (!x.adds) std::fill(acc.value.begin(), acc.value.end(), 0.0f);
  const auto n = static_cast<std::size_t>(x.n);
  std::vector<double> b(16 * n), sum(n);  // b [k][n]: rows of D in one vector loop
  for (std::size_t j = 0; j < n; ++j)
    for (std::size_t k = 0; k < 16; ++k) b[k * n + j] = to_f32(rows[(kRows + j) * 16 + k]);
  for (std::size_t i = 0; i < kRows; ++i) {
    float* d = &acc.value[i * n];
    for (std::size_t first = 0; first < 16; first += kTermsBf16) {
      for (std::size_t j = 0; j < n; ++j) sum[j] = d[j];
      for (std::size_t k = first; k < first + kTermsBf16; ++k) {
        const double a = to_f32(rows[i * 16 + k]);
        for (std::size_t j = 0; j < n; ++j) sum[j] += a * b[k * n + j];
      }
      for (std::size_t j = 0; j < n; ++j) d[j] = cut_to_float(sum[j]);
    }
  }
  ++acc.num_pending;
  ++w.num_issued;
  w.products.push_back({&acc, sources, std::move(rows), x.site});
}

void Warpgroups::fence(std::uint32_t number) {
  Warp& w = warp(number);
  w.registers_ordered = w.fragment_ordered = true;
}

void Warpgroups::commit(std::uint32_t number) {
  Warp& w = warp(number);
  w.groups.push_back(w.num_issued);
}

void Warpgroups::finish_oldest(std::uint32_t number, const Site& site) {
  Warp& w = warps_[number];
  const Product product = std::move(w.products.front());
  w.products.pop_front();
  ++w.num_done;
  Accumulator& acc = *product.accumulator;
  const std::vector<std::uint16_t> now = read_operands(number, product.sources, acc.n, site);
  const auto same = [&](std::ptrdiff_t from, std::ptrdiff_t to) {
    return std::equal(now.begin() + from, now.begin() + to, product.operands.begin() + from);
  };
  if (product.sources.fragments[0] != nullptr && !same(0, kOfA))
    fail(
        ErrorKind::wgmma,
        "wgmma_wait: the program wrote to the registers of A under the product issued at " + text_of(product.site),
        site);
  if (!same(0, std::ssize(now)))
    fail(
        ErrorKind::wgmma,
        "wgmma_wait: an operand in shared memory changed under the product issued at " + text_of(product.site), site);
  if (--acc.num_pending > 0) return;
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < acc.n / 2; ++r) {
      float& d = acc.registers[static_cast<std::size_t>(i)][r];
      if (std::bit_cast<std::uint32_t>(d) != kInFlight)
        fail(
            ErrorKind::wgmma,
            "wgmma_wait: the program wrote to an accumulator under the product issued at " + text_of(product.site),
            site);
      d = acc.value[static_cast<std::size_t>(row_of(i, r) * acc.n + column_of(i, r))];
    }
  std::erase_if(w.accumulators, [&](const auto& p) { return p.get() == &acc; });
  w.registers_ordered = false;
}

void Warpgroups::wait(std::uint32_t number, std::uint32_t keep, const Site& site) {
  Warp& w = warp(number);
  while (w.groups.size() > keep) {
    while (w.num_done < w.groups.front()) finish_oldest(number, site);
    w.groups.pop_front();
  }
}

// ---- called by the device language ----

namespace {

std::uint32_t warp_of_caller() { return engine().current().warp(); }

void run_issue(void* const* lane, std::uint32_t) {
  const WgmmaOperands* operands[32];
  for (int i = 0; i < 32; ++i) operands[i] = static_cast<const WgmmaOperands*>(lane[i]);
  engine().warpgroups.issue(warp_of_caller(), operands);
}
void run_fence(void* const*, std::uint32_t) { engine().warpgroups.fence(warp_of_caller()); }
void run_commit(void* const*, std::uint32_t) { engine().warpgroups.commit(warp_of_caller()); }
void run_wait(void* const* lane, std::uint32_t) {
  const auto& x = *static_cast<const WgmmaWait*>(lane[0]);
  engine().warpgroups.wait(warp_of_caller(), x.keep, x.site);
}

}  // namespace

const Collective wgmma_issue{"wgmma", run_issue, true};
const Collective wgmma_fence{"wgmma_fence", run_fence, true};
const Collective wgmma_commit{"wgmma_commit", run_commit, true};
const Collective wgmma_wait{"wgmma_wait", run_wait, true};

void fence_proxy_async(Site site) {
  require_arch(90, "fence_proxy_async", site);
  ++engine().current().proxy_fences;
}

}  // namespace avid::kernels::simulator
