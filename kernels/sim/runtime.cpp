// ksim.cpp — the simulator runtime (one TU). Build with -O3; add -fsanitize=address,undefined in the ASan flavour.
#include "kernels/device/gpu_sim.h"
#include <omp.h>
#include <sys/mman.h>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <unordered_map>
#include <vector>
#include <dlfcn.h>
#if defined(__SANITIZE_ADDRESS__) || defined(KSIM_ASAN_LINK)        // KSIM_ASAN_LINK: runtime itself not instrumented (fast), only linked with libasan
#define KSIM_ASAN 1
extern "C" void __asan_loadN(void*, size_t);
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define KSIM_ASAN 0
#endif
#ifndef KSIM_ANNOTATE
#define KSIM_ANNOTATE KSIM_ASAN
#endif


#if !defined(KSIM_BOOST) && defined(__x86_64__)
extern "C" void* ksim_switch(void** save, void* load, void* from);      // returns `from` in the resumed context
asm(R"(
.text
.globl ksim_switch
.type ksim_switch,@function
ksim_switch:
  .cfi_startproc
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  mov %rdx,%rax
  mov %rdx,%rdi
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .cfi_endproc
.size ksim_switch,.-ksim_switch
)");
#define KSIM_ASM 1
#else
#define KSIM_ASM 0
#endif
namespace avid::kernels::simulator {
using namespace avid::kernels::sim;
using Loc = Site; using Kind = ErrorKind; using Error = SimError;
static bool g_hooks = false;                                           // a TU compiled with -fsanitize=thread is linked in

struct Fiber { void* ctx = nullptr; void* lo = nullptr; size_t size = 0; void* fake = nullptr; uint32_t start = 0, colour = 0; bool busy = false; };
enum class St : uint8_t { unstarted, running, ready, barrier, warp, finished };
struct CpAsync { void* dst; const void* src; unsigned bytes; bool valid; };
struct Thread { uint3 tid; uint32_t lin; St st; Fiber* fiber; Loc site; std::vector<CpAsync> q; std::vector<uint32_t> groups; };
struct WarpOp { const Collective* op; uint32_t mask, arrived; Loc site; void* arg[32]; };
static inline bool same(const Loc& a, const Loc& b) { return !memcmp(&a, &b, sizeof a) || (a.line() == b.line() && a.column() == b.column() && !strcmp(a.file_name(), b.file_name())); }
struct Warp { uint32_t alive = 0, epoch = 0, npend = 0; WarpOp pending[32]; };
struct Alloc { const void* key; char* p; size_t bytes; const char* name; };
struct Cell { uint32_t wep = 0, wwe = 0, rep[2] = {0, 0}, rwe[2] = {0, 0}, wpc = 0, rpc[2] = {0, 0}; uint16_t wt = 0, rt[2] = {0, 0}; uint8_t pend = 0, wat = 0, rat[2] = {0, 0}; };
struct Rec { uint32_t mask = 0; uint8_t size = 0; bool write = false, shared = false; std::array<uintptr_t, 32> a{}; };

Options& options() {
  static Options o = [] { Options o;
    if (const char* s = getenv("AVID_SIM_ORDER")) o.order = *s == 'r' && s[1] == 'e' ? Order::reverse : *s == 'r' ? Order::random : Order::forward;
    if (const char* s = getenv("AVID_SIM_SEED")) o.seed = strtoull(s, nullptr, 0);
    if (const char* s = getenv("AVID_SIM_THREADS")) o.os_threads = atoi(s);
    return o; }();
  return o;
}

constexpr size_t kArena = 1u << 21, kRed = 128;
constexpr uint8_t kPoison = 0xFF, kCanary = 0xFB;

struct Engine {
  Fiber main; Fiber* current = &main;
  std::vector<std::unique_ptr<Fiber>> fibers; std::vector<Fiber*> idle;
  std::vector<Thread> th; std::vector<Warp> warps; uint32_t ready[32] = {}, at_bar[32] = {}, rwarps = 0, prio[32] = {}, nwarps = 0; uint64_t rs = 1;
  uint32_t n = 0, live = 0, arrived = 0, finished = 0; Loc bar_site; int bar_acc = 0, bar_res = 0;
  Thread* cur = nullptr; bool in_kernel = false; std::exception_ptr err;
  void (*call)(void*) = nullptr; void* ctx = nullptr; size_t dyn_bytes = 0;
  char* arena = nullptr; size_t top = 0; std::vector<Alloc> stat, takes; char* dyn = nullptr; size_t nominal = 0;
  uint32_t epoch = 1, block_epoch = 1; std::vector<Cell> shadow;
  uint64_t switches = 0; bool profiling = false;
  std::vector<std::unordered_map<uintptr_t, uint32_t>> pcs; std::map<std::tuple<uintptr_t, uint32_t, uint32_t>, Rec> recs;

  Engine() { arena = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); }
  ~Engine() {
#if KSIM_ASAN
    __asan_unpoison_memory_region(arena, kArena);
    for (auto& f : fibers) __asan_unpoison_memory_region(f->lo, f->size);
#endif
    munmap(arena, kArena); for (auto& f : fibers) munmap(static_cast<char*>(f->lo) - 4096, f->size + 4096); }
  Fiber* get_fiber();
  void push_mask(uint32_t w, uint32_t m) { ready[w] |= m; rwarps |= 1u << w; }
  uint32_t rnd() { rs ^= rs << 13; rs ^= rs >> 7; rs ^= rs << 17; return uint32_t(rs >> 32); }
  Thread* next();                                                      // which thread runs next: warp priority order, nullptr if none
  Fiber* pick();
  void jump(Fiber* from, Fiber* to);
  void suspend(Thread& t, St st, Loc site);
  void release();
  void finish(Thread& t);
  void setup(dim3 b, size_t smem);
  void run_block(uint3 b);
  char* alloc(size_t bytes, size_t align);
  std::string where(const void* p);
  std::string describe();
  void access(uintptr_t p, unsigned nbytes, bool w, bool atomic, uintptr_t pc, Thread* t);
  void access_hook(uintptr_t p, unsigned nbytes, bool w, bool atomic, uintptr_t pc, Thread* t);
};
static constinit thread_local Engine* g = nullptr;
static constinit thread_local bool in_hook = false;

static std::string locs(const Loc& l) { const char* f = l.file_name(); if (const char* s = strrchr(f, '/')) f = s + 1; return std::string(f) + ":" + std::to_string(l.line()); }
static std::string tids(const Thread& t) { return "(" + std::to_string(t.tid.x) + "," + std::to_string(t.tid.y) + "," + std::to_string(t.tid.z) + ")"; }

#if KSIM_ASM
struct Tr { void* data; };
static void fiber_body(Tr tr);
static void fiber_main(void* from) { fiber_body(Tr{from}); }
static void fiber_body(Tr tr) {
  Engine& e = *g; Fiber* self = e.current;
#else
static void fiber_main(bcd::transfer_t tr) {
  Engine& e = *g; Fiber* self = e.current;
  static_cast<Fiber*>(tr.data)->ctx = tr.fctx;
#endif
#if KSIM_ANNOTATE
  { const void* b; size_t s; __sanitizer_finish_switch_fiber(nullptr, &b, &s); if (tr.data == &e.main) { e.main.lo = const_cast<void*>(b); e.main.size = s; } }
#endif
  for (;;) {
    Thread& t = e.th[self->start]; t.fiber = self; t.st = St::running; e.cur = &t; threadIdx = t.tid;
    try { e.call(e.ctx); e.finish(t); } catch (...) { e.err = std::current_exception(); }
    if (e.err) { e.jump(self, &e.main); __builtin_unreachable(); }
    Thread* nt = e.next(); Fiber* nx;
    if (nt && !nt->fiber) { self->start = nt->lin; continue; }          // reuse this stack: barrier-free threads never switch
    if (nt) nx = nt->fiber;
    else { if (e.live) e.err = std::make_exception_ptr(Error(Kind::deadlock, "kernel simulator: deadlock after a thread finished:\n" + e.describe())); nx = &e.main; }
    self->busy = false; e.idle.push_back(self); e.jump(self, nx);
  }
}
static void reset(Fiber& f) {
#if KSIM_ASM
  void** sp = reinterpret_cast<void**>(static_cast<char*>(f.lo) + f.size - f.colour); *--sp = nullptr;   // fake return address: end of backtrace
  *--sp = reinterpret_cast<void*>(&fiber_main); for (int i = 0; i < 6; i++) *--sp = nullptr; f.ctx = sp;
#else
  f.ctx = bcd::make_fcontext(static_cast<char*>(f.lo) + f.size, f.size, fiber_main);
#endif
  f.fake = nullptr; f.busy = false;
#if KSIM_ASAN
  __asan_unpoison_memory_region(f.lo, f.size);
#endif
}
Fiber* Engine::get_fiber() {
  if (idle.empty()) {
    auto f = std::make_unique<Fiber>();
    f->size = (KSIM_ASAN ? 256u << 10 : 128u << 10);
    char* m = static_cast<char*>(mmap(nullptr, f->size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0));
    mprotect(m, 4096, PROT_NONE); f->lo = m + 4096; f->colour = uint32_t(fibers.size() * 11 % 64) * 64; reset(*f); idle.push_back(f.get()); fibers.push_back(std::move(f));
  }
  Fiber* f = idle.back(); idle.pop_back(); f->busy = true; return f;
}
inline void Engine::jump(Fiber* from, Fiber* to) {
  current = to; switches++;
#if KSIM_ANNOTATE
  __sanitizer_start_switch_fiber(&from->fake, to->lo, to->size);
#endif
#if KSIM_ASM
  ksim_switch(&from->ctx, to->ctx, from);
#else
  bcd::transfer_t t = bcd::jump_fcontext(to->ctx, from);
  static_cast<Fiber*>(t.data)->ctx = t.fctx;
#endif
#if KSIM_ANNOTATE
  __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}
Thread* Engine::next() {
  if (!rwarps) return nullptr;
  const Order o = options().order; uint32_t w, l;
  if (o == Order::forward) { w = uint32_t(std::countr_zero(rwarps)); l = uint32_t(std::countr_zero(ready[w])); }
  else if (o == Order::reverse) { w = 31 - uint32_t(std::countl_zero(rwarps)); l = 31 - uint32_t(std::countl_zero(ready[w])); }
  else { uint32_t i = 0; while (!(rwarps >> prio[i] & 1)) i++; w = prio[i]; const uint32_t r = rnd(), k = r & 31; l = (uint32_t(std::countr_zero(std::rotr(ready[w], int(k)))) + k) & 31;
    if ((r >> 8) % 64 == 0) std::swap(prio[0], prio[(r >> 16) % nwarps]); }
  if (!(ready[w] &= ~(1u << l))) rwarps &= ~(1u << w);
  return &th[w * 32 + l];
}
Fiber* Engine::pick() {
  Thread* t = next(); if (!t) return nullptr; if (t->fiber) return t->fiber;
  Fiber* f = get_fiber(); f->start = t->lin; return f;
}
void Engine::suspend(Thread& t, St st, Loc site) {
  t.st = st; t.site = site;
  Fiber* nx = pick();
  if (!nx) fail(Kind::deadlock, "deadlock: no thread of the block can continue\n" + describe(), site);
  jump(t.fiber, nx);
  t.st = St::running; cur = &t; threadIdx = t.tid;
}
std::string Engine::describe() {
  std::map<std::string, std::vector<uint32_t>> m; const char* nm[] = {"not started", "running", "ready", "waiting at __syncthreads", "waiting in a warp collective", "finished"};
  for (auto& t : th) m[std::string(nm[int(t.st)]) + (t.st == St::barrier || t.st == St::warp ? " " + locs(t.site) : "")].push_back(t.lin);
  std::string s; for (auto& [k, v] : m) { s += "  " + std::to_string(v.size()) + " thread(s) " + k + ":"; for (size_t i = 0, c = 0; i < v.size() && c < 8; c++) { size_t j = i; while (j + 1 < v.size() && v[j + 1] == v[j] + 1) j++; s += " " + std::to_string(v[i]) + (j > i ? "-" + std::to_string(v[j]) : ""); i = j + 1; } s += "\n"; }
  return s;
}
void fail(Kind k, const std::string& msg, Loc l) {
  Engine& e = *g; std::string s = "kernel simulator: block (" + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + "," + std::to_string(blockIdx.z) + ") thread " + (e.cur ? tids(*e.cur) : "-") + (l.line() ? " at " + locs(l) : "") + ": " + msg;
  if (!in_hook) throw Error(k, s);                                     // unwinds this fiber only; the others are abandoned
  in_hook = false; e.err = std::make_exception_ptr(Error(k, s));        // instrumentation calls are nothrow for the compiler: jump out instead
  e.jump(e.current, &e.main); __builtin_unreachable();
}
void Engine::release() {
  bar_res = bar_acc; arrived = 0; epoch++;
  for (uint32_t w = 0; w < nwarps; w++) if (at_bar[w]) { push_mask(w, at_bar[w]); at_bar[w] = 0; }
}
void Engine::finish(Thread& t) {
  if (!t.q.empty()) fail(Kind::cp_async, "thread finished with " + std::to_string(t.q.size()) + " cp.async copies never waited for", Loc{});
  t.st = St::finished; live--; finished++;
  Warp& w = warps[t.lin / 32]; w.alive &= ~(1u << (t.lin & 31));
  for (uint32_t i = 0; i < w.npend; i++) if (auto& p = w.pending[i]; p.mask >> (t.lin & 31) & 1) fail(Kind::divergent_warp, "thread finished while its warp waits for it in a collective at " + locs(p.site), Loc{});
  if (arrived) { fail(Kind::early_exit, "thread finished while others wait at __syncthreads " + locs(bar_site) + "\n" + describe(), Loc{});
    if (arrived == live) release(); }
}
void sync_block(Loc l) { sync_block_reduce(Reduce::count, 0, l); }
int sync_block_reduce(Reduce op, int pred, Loc l) {
  Engine& e = *g; Thread& t = *e.cur; const bool p = pred != 0;
  if (e.finished ) fail(Kind::early_exit, "__syncthreads reached after other threads of the block finished\n" + e.describe(), l);
  if (!e.arrived) { e.bar_site = l; e.bar_acc = p; }
  else { if (!same(e.bar_site, l)) fail(Kind::divergent_barrier, "divergent __syncthreads: others wait at " + locs(e.bar_site) + "\n" + e.describe(), l);
    e.bar_acc = op == Reduce::count ? e.bar_acc + p : op == Reduce::all ? (e.bar_acc && p) : (e.bar_acc || p); }
  if (++e.arrived == e.live) e.release(); else { e.at_bar[t.lin / 32] |= 1u << (t.lin & 31); e.suspend(t, St::barrier, l); }
  return e.bar_res;
}
void warp_collective(const Collective& what, uint32_t mask, void* arg, Loc l) {
  const Collective* op = &what; const bool full = what.whole_warp;
  Engine& e = *g; Thread& t = *e.cur; Warp& w = e.warps[t.lin / 32]; const unsigned lane = t.lin & 31;
  if (!(mask >> lane & 1)) fail(Kind::divergent_warp, "calling lane is not in its own mask", l);
  if (full && w.alive != ~0u) fail(Kind::dead_lane, "warp-wide instruction needs all 32 lanes alive", l);
  if ((mask & ~w.alive)) fail(Kind::dead_lane, "mask names lanes that have finished or do not exist", l);
  uint32_t i = 0; for (; i < w.npend; i++) if (w.pending[i].mask & mask) break;
  WarpOp& p = w.pending[i];
  if (i == w.npend) { w.npend++; p.op = op; p.mask = mask; p.arrived = 0; p.site = l; }
  else if (p.op != op || p.mask != mask || !same(p.site, l)) fail(Kind::divergent_warp, "lanes of one warp are in different collectives: others at " + locs(p.site), l);
  p.arg[lane] = arg; p.arrived |= 1u << lane;
  if (p.arrived == (mask & w.alive)) {
    const uint32_t arrived = p.arrived;
    what.run(p.arg, arrived);
    if (--w.npend != i) p = w.pending[w.npend];
    if (op == &sim::detail::kSyncWarp && arrived == w.alive) w.epoch++;
    if (uint32_t others = arrived & ~(1u << lane)) e.push_mask(t.lin / 32, others);
  } else e.suspend(t, St::warp, l);
}
// ---- shared memory -------------------------------------------------------------------------------------------------
char* Engine::alloc(size_t bytes, size_t align) {
  size_t off = (top + kRed + std::max<size_t>(align, 16) - 1) & ~(std::max<size_t>(align, 16) - 1), end = off + bytes;
  if (end + kRed > kArena) fail(Kind::shared_size, "shared memory arena exhausted", Loc{});
#if KSIM_ASAN
  __asan_unpoison_memory_region(arena + off, bytes);
#else
  memset(arena + top, kCanary, off - top); memset(arena + end, kCanary, kRed);
#endif
  memset(arena + off, kPoison, bytes); top = end; return arena + off;
}
std::uint32_t shared_offset(const void* p, Site l) { size_t off = static_cast<const char*>(p) - g->arena; if (off >= kArena) fail(Kind::misaligned, "shared_address: not in shared memory", l); return uint32_t(off); }
void* shared_pointer(std::uint32_t off) { return g->arena + off; }
void* shared_static(const SharedKey& k, size_t bytes, size_t align) {
  Engine& e = *g; for (auto& a : e.stat) if (a.key == &k) return a.p;
  if ((e.nominal += bytes) > 232448) fail(Kind::shared_size, "more than 227 KiB of shared memory", Loc{});
  e.stat.push_back({&k, e.alloc(bytes, align), bytes, k.name}); return e.stat.back().p;
}
void* shared_take(size_t bytes, const char* name, size_t* cur, size_t* nominal) {
  Engine& e = *g; *nominal += (bytes + 15) & ~size_t(15);
  if (*nominal > e.dyn_bytes) fail(Kind::shared_size, std::string("smem_arena: '") + name + "' needs " + std::to_string(*nominal) + " bytes but the launch gave " + std::to_string(e.dyn_bytes), Loc{});
  size_t i = (*cur)++; if (i == e.takes.size()) { e.takes.push_back({nullptr, e.alloc(bytes, 16), bytes, name}); e.stat.push_back(e.takes.back()); }
  if (e.takes[i].bytes != bytes) fail(Kind::shared_size, "smem_arena: threads disagree on the carve-up", Loc{});
  return e.takes[i].p;
}
std::string Engine::where(const void* p) { auto c = static_cast<const char*>(p); for (auto& a : stat) if (c >= a.p - kRed && c < a.p + a.bytes + kRed) return std::string("shared '") + a.name + "' byte " + std::to_string(c - a.p) + " of " + std::to_string(a.bytes); return "global memory"; }
// ---- cp.async ------------------------------------------------------------------------------------------------------
static void mark_pending(Engine& e, const CpAsync& c, Thread& t, uintptr_t pc, bool on) {
  if (!g_hooks) return; uintptr_t o = uintptr_t(c.dst) - uintptr_t(e.arena); if (o >= kArena) return;
  if (!on) for (unsigned i = 0; i < c.bytes; i++) e.shadow[o + i].pend = 0;
  e.access(uintptr_t(c.dst), c.bytes, true, false, pc, &t); if (on) for (unsigned i = 0; i < c.bytes; i++) e.shadow[o + i].pend = 1; }
void cp_async(void* dst, const void* src, unsigned bytes, bool valid, Loc l) {
  Engine& e = *g; Thread& t = *e.cur;
  if ((uintptr_t(dst) | (valid ? uintptr_t(src) : 0)) & (bytes - 1)) fail(Kind::misaligned, "cp.async: address not aligned to " + std::to_string(bytes), l);
  if (uintptr_t(dst) - uintptr_t(e.arena) >= kArena) fail(Kind::misaligned, "cp.async: destination is not shared memory", l);
#if KSIM_ASAN
  if (valid) __asan_loadN(const_cast<void*>(src), bytes);               // fault at the issue site
#endif
  memset(dst, kPoison, bytes);
  CpAsync c{dst, src, bytes, valid}; mark_pending(e, c, t, uintptr_t(__builtin_return_address(0)), true);
#if KSIM_ASAN
  __asan_poison_memory_region(dst, bytes);
#endif
  t.q.push_back(c);
}
void cp_async_commit() { Thread& t = *g->cur; t.groups.push_back(uint32_t(t.q.size())); }
void cp_async_wait(int keep) {
  Thread& t = *g->cur; if (int(t.groups.size()) <= keep) return;
  size_t k = t.groups.size() - size_t(keep); uint32_t upto = t.groups[k - 1];
  for (uint32_t i = 0; i < upto; i++) { auto& c = t.q[i];
#if KSIM_ASAN
    __asan_unpoison_memory_region(c.dst, c.bytes);
#endif
    if (c.valid) memcpy(c.dst, c.src, c.bytes); else memset(c.dst, 0, c.bytes); mark_pending(*g, c, t, uintptr_t(__builtin_return_address(0)), false); }
  t.q.erase(t.q.begin(), t.q.begin() + upto); t.groups.erase(t.groups.begin(), t.groups.begin() + long(k)); for (auto& x : t.groups) x -= upto;
}
// ---- tensor core
static float bf(uint32_t h) { return std::bit_cast<float>(h << 16); }
template <unsigned K> static void mma_bf16(void* const* l, uint32_t) {
  constexpr unsigned RA = K / 4, RB = K / 8;
  alignas(64) float A[16][K], B[K][8], C[16][8];
  for (unsigned i = 0; i < 32; i++) { auto& x = *static_cast<MmaOperands*>(l[i]); unsigned gr = i >> 2, t = (i & 3) * 2;
    for (unsigned r = 0; r < RA; r++) { unsigned row = gr + (r & 1) * 8, col = t + (r >> 1) * 8; A[row][col] = bf(x.a[r] & 0xffff); A[row][col + 1] = bf(x.a[r] >> 16); }
    for (unsigned r = 0; r < RB; r++) { B[t + r * 8][gr] = bf(x.b[r] & 0xffff); B[t + r * 8 + 1][gr] = bf(x.b[r] >> 16); }
    for (unsigned r = 0; r < 4; r++) C[gr + (r >> 1) * 8][t + (r & 1)] = x.c[r]; }
  for (int i = 0; i < 16; i++) for (unsigned k = 0; k < K; k++) for (int j = 0; j < 8; j++) C[i][j] += A[i][k] * B[k][j];
  for (unsigned i = 0; i < 32; i++) { auto& x = *static_cast<MmaOperands*>(l[i]); unsigned gr = i >> 2, t = (i & 3) * 2; for (unsigned r = 0; r < 4; r++) x.d[r] = C[gr + (r >> 1) * 8][t + (r & 1)]; }
}
static void mma_tf32(void* const* l, uint32_t) {
  alignas(64) float A[16][8], B[8][8], C[16][8]; auto tf = [](uint32_t u) { if (u & 0x1fff) fail(Kind::bad_operand, "tf32 operand was not rounded with to_tf32", Loc{}); return std::bit_cast<float>(u & 0xffffe000u); };
  for (unsigned i = 0; i < 32; i++) { auto& x = *static_cast<MmaOperands*>(l[i]); unsigned gr = i >> 2, t = i & 3;
    for (unsigned r = 0; r < 4; r++) A[gr + (r & 1) * 8][t + (r >> 1) * 4] = tf(x.a[r]);
    for (unsigned r = 0; r < 2; r++) B[t + r * 4][gr] = tf(x.b[r]);
    for (unsigned r = 0; r < 4; r++) C[gr + (r >> 1) * 8][t * 2 + (r & 1)] = x.c[r]; }
  for (int i = 0; i < 16; i++) for (int k = 0; k < 8; k++) for (int j = 0; j < 8; j++) C[i][j] += A[i][k] * B[k][j];
  for (unsigned i = 0; i < 32; i++) { auto& x = *static_cast<MmaOperands*>(l[i]); unsigned gr = i >> 2, t = i & 3; for (unsigned r = 0; r < 4; r++) x.d[r] = C[gr + (r >> 1) * 8][t * 2 + (r & 1)]; }
}
template <unsigned N, bool trans> static void ldm(void* const* l, uint32_t) {
  uint16_t M[32][8]; Engine& e = *g; Thread* base = &e.th[e.cur->lin & ~31u];
  for (unsigned i = 0; i < 8 * N; i++) { auto* row = static_cast<MatrixLoad*>(l[i])->row; if (uintptr_t(row) & 15) { e.cur = base + i; fail(Kind::misaligned, "ldmatrix: row address not 16-byte aligned", base[i].site); }
    if (uintptr_t(row) - uintptr_t(e.arena) >= kArena) { e.cur = base + i; fail(Kind::misaligned, "ldmatrix: row address is not shared memory", base[i].site); }
    if (g_hooks) e.access(uintptr_t(row), 16, false, false, uintptr_t(__builtin_return_address(0)), base + i);
#if KSIM_ASAN
    __asan_loadN(const_cast<void*>(row), 16);
#endif
    memcpy(M[i], row, 16); }
  for (unsigned i = 0; i < 32; i++) for (unsigned j = 0; j < N; j++) { unsigned r = i >> 2, c = (i & 3) * 2; uint32_t lo = trans ? M[j * 8 + c][r] : M[j * 8 + r][c], hi = trans ? M[j * 8 + c + 1][r] : M[j * 8 + r][c + 1]; static_cast<MatrixLoad*>(l[i])->r[j] = lo | hi << 16; }
}
static void movm(void* const* l, uint32_t) {
  uint16_t M[8][8];
  for (unsigned i = 0; i < 32; i++) { uint32_t v = *static_cast<uint32_t*>(l[i]); M[i >> 2][(i & 3) * 2] = uint16_t(v); M[i >> 2][(i & 3) * 2 + 1] = uint16_t(v >> 16); }
  for (unsigned i = 0; i < 32; i++) { unsigned r = i >> 2, c = (i & 3) * 2; *static_cast<uint32_t*>(l[i]) = M[c][r] | uint32_t(M[c + 1][r]) << 16; }
}
const Collective mma_bf16_k16{"mma", mma_bf16<16>, true}, mma_bf16_k8{"mma", mma_bf16<8>, true}, mma_tf32_k8{"mma", mma_tf32, true};
const Collective load_x1{"ldmatrix", ldm<1, false>, true}, load_x1_trans{"ldmatrix", ldm<1, true>, true}, load_x2{"ldmatrix", ldm<2, false>, true}, load_x2_trans{"ldmatrix", ldm<2, true>, true}, load_x4{"ldmatrix", ldm<4, false>, true}, load_x4_trans{"ldmatrix", ldm<4, true>, true}, move_matrix{"movmatrix", movm, true};
// ---- launch --------------------------------------------------------------------------------------------------------
void Engine::setup(dim3 b, size_t smem) {
  n = b.x * b.y * b.z; dyn_bytes = smem; blockDim = b; th.resize(n); nwarps = (n + 31) / 32; warps.resize(nwarps);
  rs = options().seed * 0x9E3779B97F4A7C15ull | 1; if (g_hooks) shadow.resize(kArena);
  for (uint32_t i = 0; i < n; i++) { th[i].lin = i; th[i].tid = {i % b.x, i / b.x % b.y, i / b.x / b.y}; }
}
static std::mutex g_stat_mu; struct PcStat { uint64_t req = 0, units = 0, ideal = 0; unsigned size = 0; bool shared = false, write = false; }; static std::map<uintptr_t, PcStat> g_prof;
void Engine::run_block(uint3 b) {
  blockIdx = b; live = n; arrived = finished = 0; rwarps = 0; epoch++; block_epoch = epoch; err = nullptr;
  for (auto& t : th) { t.st = St::unstarted; t.fiber = nullptr; t.q.clear(); t.groups.clear(); }
  for (uint32_t w = 0; w < warps.size(); w++) { warps[w].alive = n - w * 32 >= 32 ? ~0u : (1u << (n - w * 32)) - 1; warps[w].npend = 0; at_bar[w] = 0; ready[w] = 0; prio[w] = w; push_mask(w, warps[w].alive); }
  if (options().order == Order::random) for (uint32_t i = nwarps; i > 1; i--) std::swap(prio[i - 1], prio[rnd() % i]);
#if KSIM_ASAN
  if (top) __asan_unpoison_memory_region(arena, top); __asan_poison_memory_region(arena, kArena);
#endif
  top = 0; stat.clear(); takes.clear(); dyn = nullptr; nominal = dyn_bytes; profiling = options().profile && b.x == 0 && b.y == 0 && b.z == 0;
  if (profiling) { pcs.assign(n, {}); recs.clear(); }
  if (g_hooks) for (size_t i = 0; i < kArena && false; i++) shadow[i].pend = 0;
  in_kernel = true; jump(&main, pick()); in_kernel = false;
  if (err) { for (auto& f : fibers) if (f->busy || true) { reset(*f); } idle.clear(); for (auto& f : fibers) idle.push_back(f.get());
    for (auto& c : shadow) c.pend = 0; auto x = err; err = nullptr; cur = nullptr; std::rethrow_exception(x); }
#if !KSIM_ASAN
  for (auto& a : stat) for (size_t i = 0; i < kRed; i++) if (uint8_t(a.p[a.bytes + i]) != kCanary) { throw Error(Kind::overrun, std::string("kernel simulator: write past the end of ") + where(a.p + a.bytes + i)); }
#endif
  if (profiling) { std::lock_guard lk(g_stat_mu);
    for (auto& [k, r] : recs) { auto& s = g_prof[std::get<0>(k)]; s.req++; s.size = r.size; s.shared = r.shared; s.write = r.write;
      if (!r.shared) { std::vector<uintptr_t> sec; unsigned lanes = unsigned(std::popcount(r.mask)); for (int i = 0; i < 32; i++) if (r.mask >> i & 1) for (uintptr_t q = r.a[size_t(i)] / 32; q <= (r.a[size_t(i)] + r.size - 1) / 32; q++) sec.push_back(q);
        std::sort(sec.begin(), sec.end()); s.units += uint64_t(std::unique(sec.begin(), sec.end()) - sec.begin()); s.ideal += (lanes * r.size + 31) / 32; }
      else { unsigned phases = r.size <= 4 ? 1 : r.size / 4, per = 32 / phases; for (unsigned ph = 0; ph < phases; ph++) { std::array<std::vector<uintptr_t>, 32> bank; for (unsigned i = ph * per; i < (ph + 1) * per; i++) if (r.mask >> i & 1) for (unsigned wd = 0; wd < std::max(1u, r.size / 4u); wd++) { uintptr_t q = r.a[i] / 4 + wd; auto& v = bank[q & 31]; if (std::find(v.begin(), v.end(), q) == v.end()) v.push_back(q); }
        size_t mx = 0; for (auto& v : bank) mx = std::max(mx, v.size()); s.units += mx; s.ideal += 1; } } } }
}
void run_grid(const void*, dim3 grid, dim3 block, size_t smem, void (*call)(void*), void* ctx) {
  const long total = long(grid.x) * grid.y * grid.z; std::exception_ptr first; std::atomic<bool> stop{false}; std::mutex mu;
  if (block.x * block.y * block.z > 1024 || !total) throw Error(Kind::bad_operand, "bad launch configuration");
  int nt = options().os_threads ? options().os_threads : omp_get_max_threads(); if (total < nt) nt = int(total);
#pragma omp parallel num_threads(nt)
  {
    static thread_local Engine eng; g = &eng; eng.call = call; eng.ctx = ctx; gridDim = grid; eng.setup(block, smem);
#pragma omp for schedule(dynamic, 1)
    for (long i = 0; i < total; i++) {
      if (stop.load(std::memory_order_relaxed)) continue;
      const unsigned u = unsigned(options().order == Order::forward ? i : total - 1 - i);
      try { eng.run_block({u % grid.x, u / grid.x % grid.y, u / grid.x / grid.y}); }
      catch (...) { std::lock_guard lk(mu); if (!first) first = std::current_exception(); stop = true; }
    }
  }
  if (first) std::rethrow_exception(first);
}
// ---- compiler hooks (kernel TU compiled with -fsanitize=thread, libtsan NOT linked) ---------------------------------
static std::string sym(uintptr_t pc) {
  Dl_info d; if (!dladdr(reinterpret_cast<void*>(pc), &d)) return "?"; char cmd[512]; snprintf(cmd, sizeof cmd, "addr2line -e %s -s 0x%lx", d.dli_fname, pc - 1 - uintptr_t(d.dli_fbase));
  std::string s; if (FILE* f = popen(cmd, "r")) { char b[256]; if (fgets(b, sizeof b, f)) s = b; pclose(f); } if (size_t k = s.find_first_of(" \n"); k != s.npos) s.resize(k); return s;
}
static uintptr_t g_base = [] { Dl_info d; return dladdr(reinterpret_cast<void*>(&run_grid), &d) ? uintptr_t(d.dli_fbase) : 0; }();
void Engine::access_hook(uintptr_t p, unsigned nb, bool w, bool at, uintptr_t pc, Thread* t) { if (in_hook) return; in_hook = true; access(p, nb, w, at, pc, t); in_hook = false; }
void Engine::access(uintptr_t p, unsigned nb, bool w, bool at, uintptr_t pc, Thread* t) {
  const uintptr_t off = p - uintptr_t(arena); const bool sh = off < kArena;
  if (profiling) { uint32_t k = pcs[t->lin][pc]++; Rec& r = recs[{pc, t->lin / 32, k}]; r.mask |= 1u << (t->lin & 31); r.size = uint8_t(nb); r.write = w; r.shared = sh; r.a[t->lin & 31] = p; }
  if (!sh || !options().detect_races) return;
  const uint16_t me = uint16_t(t->lin); const uint32_t we = warps[me / 32].epoch; const uint32_t rp = uint32_t(pc - g_base);
  auto conflict = [&](uint16_t u, uint32_t ep, uint32_t pw) { return u != me && ep == epoch && !(u / 32 == me / 32 && pw < we); };
  for (unsigned i = 0; i < nb; i++) { Cell& c = shadow[off + i];
    if (c.pend) { if (c.wep >= block_epoch) fail(Kind::cp_async, std::string(w ? "write to" : "read of") + " a cp.async destination before cp_async_wait: " + where(reinterpret_cast<void*>(p + i)) + " at " + sym(pc) + ", copy issued by thread " + std::to_string(c.wt), Loc{}); }
    if (conflict(c.wt, c.wep, c.wwe) && !(at && c.wat)) fail(Kind::race, std::string("race (no barrier between): ") + (w ? "write" : "read") + " by thread " + std::to_string(me) + " at " + sym(pc) + " and write by thread " + std::to_string(c.wt) + " at " + sym(c.wpc + g_base) + " on " + where(reinterpret_cast<void*>(p + i)), Loc{});
    if (w) { for (int k = 0; k < 2; k++) if (conflict(c.rt[k], c.rep[k], c.rwe[k]) && !(at && c.rat[k])) fail(Kind::race, "race (no barrier between): write by thread " + std::to_string(me) + " at " + sym(pc) + " and read by thread " + std::to_string(c.rt[k]) + " at " + sym(c.rpc[k] + g_base) + " on " + where(reinterpret_cast<void*>(p + i)), Loc{});
      c.wt = me; c.wep = epoch; c.wwe = we; c.wpc = rp; c.wat = at; }
    if (!w) { if (c.wep < block_epoch) fail(Kind::uninitialised, "read of uninitialised " + where(reinterpret_cast<void*>(p + i)) + " at " + sym(pc), Loc{});
      int k = c.rt[0] == me || c.rep[0] != epoch ? 0 : c.rt[1] == me || c.rep[1] != epoch ? 1 : int(me & 1); c.rt[k] = me; c.rep[k] = epoch; c.rwe[k] = we; c.rpc[k] = rp; c.rat[k] = at; }
  }
}
void print_profile() { for (auto& [pc, s] : g_prof) printf("  %-18s %s %-5s %2uB: %6lu warp requests, %6.2f %s per request (ideal %.2f)\n", sym(pc).c_str(), s.shared ? "shared" : "global", s.write ? "store" : "load", s.size, s.req, double(s.units) / double(s.req), s.shared ? "passes" : "32B sectors", double(s.ideal) / double(s.req)); g_prof.clear(); }
uint64_t switches() { return g ? g->switches : 0; }
}  // namespace

extern "C" {
using avid::kernels::simulator::g;
#define HK(name, n, w) void name(void* p) { auto* e = g; if (e && e->in_kernel) e->access_hook(uintptr_t(p), n, w, false, uintptr_t(__builtin_return_address(0)), e->cur); }
void __tsan_init() { avid::kernels::simulator::g_hooks = true; }
void __tsan_func_entry(void*) {} void __tsan_func_exit() {}
HK(__tsan_read1, 1, false) HK(__tsan_read2, 2, false) HK(__tsan_read4, 4, false) HK(__tsan_read8, 8, false) HK(__tsan_read16, 16, false)
HK(__tsan_write1, 1, true) HK(__tsan_write2, 2, true) HK(__tsan_write4, 4, true) HK(__tsan_write8, 8, true) HK(__tsan_write16, 16, true)
HK(__tsan_unaligned_read2, 2, false) HK(__tsan_unaligned_read4, 4, false) HK(__tsan_unaligned_read8, 8, false) HK(__tsan_unaligned_read16, 16, false)
HK(__tsan_unaligned_write2, 2, true) HK(__tsan_unaligned_write4, 4, true) HK(__tsan_unaligned_write8, 8, true) HK(__tsan_unaligned_write16, 16, true)
void __tsan_read_range(void* p, unsigned long n) { auto* e = g; if (e && e->in_kernel) e->access_hook(uintptr_t(p), unsigned(n), false, false, uintptr_t(__builtin_return_address(0)), e->cur); }
void __tsan_write_range(void* p, unsigned long n) { auto* e = g; if (e && e->in_kernel) e->access_hook(uintptr_t(p), unsigned(n), true, false, uintptr_t(__builtin_return_address(0)), e->cur); }
void __tsan_vptr_update(void*, void*) {} void __tsan_vptr_read(void*) {}
#define AT(p) { auto* e = g; if (e && e->in_kernel) e->access_hook(uintptr_t(p), 4, true, true, uintptr_t(__builtin_return_address(0)), e->cur); }
int __tsan_atomic32_load(const volatile int* p, int) { return __atomic_load_n(p, 5); }
void __tsan_atomic32_store(volatile int* p, int v, int) { AT(p) __atomic_store_n(p, v, 5); }
int __tsan_atomic32_fetch_add(volatile int* p, int v, int) { AT(p) return __atomic_fetch_add(p, v, 5); }
int __tsan_atomic32_compare_exchange_strong(volatile int* p, int* c, int v, int, int) { AT(p) return __atomic_compare_exchange_n(p, c, v, false, 5, 5); }
int __tsan_atomic32_compare_exchange_weak(volatile int* p, int* c, int v, int, int) { AT(p) return __atomic_compare_exchange_n(p, c, v, false, 5, 5); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(5); }
}
#if KSIM_ASAN
extern "C" void __asan_on_error() { auto* e = avid::kernels::simulator::g; if (e && e->in_kernel && e->cur) { void* a = __asan_get_report_address(); fprintf(stderr, "kernel simulator: in block (%u,%u,%u) thread %s, address is %s\n", blockIdx.x, blockIdx.y, blockIdx.z, avid::kernels::simulator::tids(*e->cur).c_str(), e->where(a).c_str()); } }
#endif
