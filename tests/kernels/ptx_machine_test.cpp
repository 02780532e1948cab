// tests/kernels/ptx_machine_test.cpp -- the machine that runs PTX (kernels/ptx), on texts written here
//
// What nvcc makes of our kernels runs on it in builds with AVID_PTX_MACHINE; these tests need no CUDA.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/ptx/machine.h"
#include "tests/doctest.h"

namespace avid::test {
namespace {

using namespace kernels::ptx;

/// A kernel `k(in, out)` of this body, with registers %p, %rs, %r, %rd, %f, %fd, and what it needs to begin: %rd1 = in,
/// %rd2 = out, %r1 = thread, %rd3 = 4 thread, %rd4 = out + 4 thread, %rd5 = in + 4 thread.
std::string text_of(const std::string& body, const std::string& declarations = "") {
  return R"(.version 9.0
.target sm_80
.address_size 64
)" + declarations +
         R"(
.visible .entry k(
  .param .u64 k_param_0,
  .param .u64 k_param_1
)
.maxntid 256, 1, 1
{
  .reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .f32 %f<20>; .reg .f64 %fd<9>;
  ld.param.u64 %rd1, [k_param_0];
  ld.param.u64 %rd2, [k_param_1];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4;
  add.s64 %rd4, %rd2, %rd3;
  add.s64 %rd5, %rd1, %rd3;
)" + body +
         "\n}\n";
}

struct Launch {
  std::uint32_t blocks = 1, threads = 32;
  std::size_t dynamic_shared_bytes = 0;
};

void run_text(const std::string& text, const void* in, void* out, Launch launch = {}, Machine machine = {}) {
  const auto module = Module::load(text);
  CHECK(module->target() == "sm_80");
  const Kernel* kernel = module->find("k");
  REQUIRE(kernel != nullptr);
  REQUIRE(kernel->parameter_bytes == 16);
  std::array<std::byte, 16> parameters;
  std::memcpy(parameters.data(), &in, 8);
  std::memcpy(parameters.data() + 8, &out, 8);
  run(machine, *kernel, {launch.blocks, 1, 1}, {launch.threads, 1, 1}, launch.dynamic_shared_bytes, parameters.data());
}

/// One word per thread in, one out.
std::vector<std::uint32_t> words_of(const std::string& body, std::vector<std::uint32_t> in, Launch launch = {}) {
  in.resize(std::max<std::size_t>(in.size(), launch.threads), 0);
  std::vector<std::uint32_t> out(std::size_t{launch.blocks} * launch.threads, 0xdeadbeef);
  run_text(text_of(body), in.data(), out.data(), launch);
  return out;
}

/// The result of one instruction on three operands of 32 bits: `%r10, %r11 -> %r20` and the same of %f.
std::uint32_t result(const std::string& instruction, std::uint32_t a, std::uint32_t b = 0, std::uint32_t c = 0) {
  std::vector<std::uint32_t> in(34, 0);
  in[0] = a, in[1] = b, in[2] = c;
  return words_of(
      R"(ld.global.u32 %r10, [%rd1]; ld.global.u32 %r11, [%rd1+4]; ld.global.u32 %r12, [%rd1+8];
      mov.b32 %f10, %r10; mov.b32 %f11, %r11; mov.b32 %f12, %r12; mov.u32 %r20, 0;
      mov.u32 %r21, 0;
      )" + instruction +
          "; st.global.u32 [%rd4], %r20; ret;",
      in)[7];
}
std::uint32_t bits(float v) { return std::bit_cast<std::uint32_t>(v); }
float float_result(const std::string& instruction, float a, float b = 0, float c = 0) {
  return std::bit_cast<float>(result(instruction + "; mov.b32 %r20, %f19", bits(a), bits(b), bits(c)));
}

std::string error_of(const std::string& body, Launch launch = {}, Machine machine = {}) {
  std::vector<std::uint32_t> in(256, 1), out(256 * launch.blocks, 0);
  try {
    run_text(text_of(body), in.data(), out.data(), launch, machine);
  } catch (const PtxError& error) {
    return error.what();
  }
  return "no error";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("ptx machine: integers") {
  CHECK(result("add.s32 %r20, %r10, %r11", 0xffffffff, 2) == 1);
  CHECK(result("sub.s32 %r20, %r10, %r11", 1, 2) == 0xffffffff);
  CHECK(result("mad.lo.s32 %r20, %r10, %r11, %r12", 7, 6, 100) == 142);
  CHECK(result("mul.hi.u32 %r20, %r10, %r11", 0x80000000, 6) == 3);
  CHECK(result("mul.hi.s32 %r20, %r10, %r11", 0xffffffff, 6) == 0xffffffff);
  CHECK(result("div.s32 %r20, %r10, %r11", static_cast<std::uint32_t>(-7), 2) == static_cast<std::uint32_t>(-3));
  CHECK(result("div.u32 %r20, %r10, %r11", 7, 0) == 0xffffffff);
  CHECK(result("rem.s32 %r20, %r10, %r11", static_cast<std::uint32_t>(-7), 2) == static_cast<std::uint32_t>(-1));
  CHECK(result("shl.b32 %r20, %r10, %r11", 3, 31) == 0x80000000);
  CHECK(result("shl.b32 %r20, %r10, %r11", 3, 32) == 0);
  CHECK(result("shr.s32 %r20, %r10, %r11", 0x80000000, 40) == 0xffffffff);
  CHECK(result("shr.u32 %r20, %r10, %r11", 0x80000000, 31) == 1);
  CHECK(result("min.s32 %r20, %r10, %r11", 0xffffffff, 1) == 0xffffffff);
  CHECK(result("min.u32 %r20, %r10, %r11", 0xffffffff, 1) == 1);
  CHECK(result("bfi.b32 %r20, %r10, %r11, 4, 8", 0xabc, 0xffffffff) == 0xfffffbcf);
  CHECK(result("prmt.b32 %r20, %r10, %r11, 21536", 0x33221100, 0x77665544) == 0x55442200);  // 0x5420
  CHECK(result("prmt.b32 %r20, %r10, %r11, 8", 0x33221180, 0) == 0x808080ff);  // the sign of byte 0; byte 0 thrice
  CHECK(
      result("mul.wide.s32 %rd10, %r10, %r11; shr.u64 %rd10, %rd10, 32; cvt.u32.u64 %r20, %rd10", 0xffffffff, 5) ==
      0xffffffff);
  CHECK(result("cvt.u16.u32 %rs1, %r10; neg.s16 %rs2, %rs1; cvt.u32.u16 %r20, %rs2", 1) == 0xffff);
  CHECK(result("cvt.u16.u32 %rs1, %r10; mov.b32 %r20, {%rs1, %rs1}", 0x12345678) == 0x56785678);
  CHECK(result("setp.lt.s32 %p1, %r10, %r11; selp.b32 %r20, 5, 6, %p1", 0xffffffff, 0) == 5);
  CHECK(result("setp.lt.u32 %p1, %r10, %r11; selp.b32 %r20, 5, 6, %p1", 0xffffffff, 0) == 6);
  CHECK(result("setp.eq.s32 %p1, %r12, 0; setp.gt.and.s32 %p2, %r10, %r11, !%p1; selp.b32 %r20, 5, 6, %p2", 2, 1) == 6);
  CHECK(result("mov.u32 %r20, 4; setp.eq.s32 %p1, %r10, 3; @!%p1 mov.u32 %r20, 9", 3) == 4);
}

TEST_CASE("ptx machine: floats") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  CHECK(float_result("fma.rn.f32 %f19, %f10, %f11, %f12", 3, 5, 0.5f) == 15.5f);
  // 1 + 2^-30 lies between 1 and its neighbours: nearest and down give 1; 1 - 2^-30 nearest 1, down the one below
  CHECK(float_result("fma.rm.f32 %f19, %f10, %f11, %f12", 0x1p-15f, 0x1p-15f, 1) == 1.0f);
  CHECK(float_result("fma.rn.f32 %f19, %f10, %f11, %f12", -0x1p-15f, 0x1p-15f, 1) == 1.0f);
  CHECK(float_result("fma.rm.f32 %f19, %f10, %f11, %f12", -0x1p-15f, 0x1p-15f, 1) == std::nextafter(1.0f, 0.0f));
  CHECK(float_result("min.f32 %f19, %f10, %f11", nan, 2) == 2);
  CHECK(float_result("copysign.f32 %f19, %f10, %f11", -1, 3) == -3);
  CHECK(float_result("ex2.approx.f32 %f19, %f10", 3) == 8);
  CHECK(float_result("rsqrt.approx.f32 %f19, %f10", 4) == 0.5f);
  CHECK(float_result("cvt.sat.f32.f32 %f19, %f10", 3) == 1);
  CHECK(float_result("cvt.rzi.f32.f32 %f19, %f10", -2.75f) == -2);
  CHECK(
      float_result("cvt.f64.f32 %fd1, %f10; add.f64 %fd1, %fd1, 0d3FF0000000000000; cvt.rn.f32.f64 %f19, %fd1", 2) ==
      3);
  CHECK(result("cvt.rni.s32.f32 %r20, %f10", bits(2.5f)) == 2);
  CHECK(result("cvt.rzi.u32.f32 %r20, %f10", bits(-1)) == 0);
  CHECK(result("cvt.rzi.u32.f32 %r20, %f10", bits(inf)) == 0xffffffff);
  CHECK(result("cvt.rn.bf16x2.f32 %r20, %f10, %f11", bits(1.0f), bits(1.00390625f)) == 0x3f803f80);  // a tie: even
  CHECK(result("cvt.rna.tf32.f32 %r20, %f10", 0x3f801000) == 0x3f802000);  // a tie: away from zero
  CHECK(result("setp.neu.f32 %p1, %f10, %f10; selp.b32 %r20, 1, 0, %p1", bits(nan)) == 1);
  CHECK(result("setp.ne.f32 %p1, %f10, %f10; selp.b32 %r20, 1, 0, %p1", bits(nan)) == 0);
}

TEST_CASE("ptx machine: lanes part at a branch and meet again") {
  // thread t: the sum of 1 .. t by a loop of t rounds, odd threads negated; then a sum over the warp by shuffles
  const auto out = words_of(
      R"(
    mov.u32 %r2, 0; mov.u32 %r3, 0;
    $loop:
    setp.ge.u32 %p1, %r3, %r1;
    @%p1 bra $done;
    add.u32 %r3, %r3, 1;
    add.u32 %r2, %r2, %r3;
    bra.uni $loop;
    $done:
    and.b32 %r4, %r1, 1;
    setp.eq.u32 %p2, %r4, 0;
    @%p2 bra $even;
    neg.s32 %r2, %r2;
    $even:
    shfl.sync.bfly.b32 %r5|%p3, %r2, 1, 31, -1;
    add.s32 %r2, %r2, %r5;
    st.global.u32 [%rd4], %r2;
    ret;)",
      {});
  for (std::uint32_t t = 0; t < 32; ++t) {
    const std::uint32_t even = t & ~1u;
    CHECK(out[t] == even * (even + 1) / 2 - (even + 1) * (even + 2) / 2);
  }
}

TEST_CASE("ptx machine: shuffles, votes, reductions") {
  std::vector<std::uint32_t> in(32);
  std::iota(in.begin(), in.end(), 100);
  const std::string load = "ld.global.u32 %r2, [%rd5]; ", store = " st.global.u32 [%rd4], %r3; ret;";
  CHECK(words_of(load + "shfl.sync.idx.b32 %r3|%p1, %r2, 5, 31, -1;" + store, in)[9] == 105);
  auto down = words_of(load + "shfl.sync.down.b32 %r3|%p1, %r2, 4, 31, -1; @!%p1 mov.u32 %r3, 7;" + store, in);
  CHECK(down[3] == 107);
  CHECK(down[30] == 7);
  auto up = words_of(load + "shfl.sync.up.b32 %r3|%p1, %r2, 4, 0, -1; @!%p1 mov.u32 %r3, 7;" + store, in);
  CHECK(up[30] == 126);
  CHECK(up[2] == 7);
  CHECK(
      words_of(load + "shfl.sync.down.b32 %r3|%p1, %r2, 1, 6175, -1;" + store, in)[7] == 107);  // segments of 8: itself
  CHECK(words_of(load + "redux.sync.max.s32 %r3, %r2, -1;" + store, in)[0] == 131);
  CHECK(
      words_of(
          load + "setp.gt.u32 %p1, %r2, 130; vote.sync.any.pred %p2, %p1, -1; selp.b32 %r3, 1, 0, %p2;" + store,
          in)[0] == 1);
}

TEST_CASE("ptx machine: shared memory and barriers over warps and blocks") {
  // every thread reads what the last thread of its block wrote; dynamic memory begins behind the static array
  const std::string text = text_of(
      R"(
    .shared .align 4 .b8 words[1024];
    mov.u32 %r2, words; mad.lo.s32 %r3, %r1, 4, %r2; mov.u32 %r4, %ctaid.x; mad.lo.s32 %r5, %r4, 1000, %r1;
    st.shared.u32 [%r3], %r5;
    mov.u32 %r6, dynamic; sub.s32 %r7, %r6, %r2; st.shared.u32 [dynamic+4], %r7;
    bar.sync 0;
    mov.u32 %r8, %ntid.x; sub.s32 %r9, %r8, 1; sub.s32 %r9, %r9, %r1; mad.lo.s32 %r3, %r9, 4, %r2;
    ld.shared.u32 %r10, [%r3]; ld.shared.u32 %r11, [dynamic+4]; add.s32 %r10, %r10, %r11;
    mad.lo.s32 %r12, %r4, %r8, %r1; mul.wide.u32 %rd6, %r12, 4; add.s64 %rd6, %rd2, %rd6;
    st.global.u32 [%rd6], %r10;
    ret;)",
      ".extern .shared .align 16 .b8 dynamic[];\n");
  for (const int threads : {1, 3}) {
    std::vector<std::uint32_t> out(3 * 96, 0);
    run_text(
        text, out.data(), out.data(), {.blocks = 3, .threads = 96, .dynamic_shared_bytes = 8}, {.threads = threads});
    for (std::uint32_t b = 0; b < 3; ++b)
      for (std::uint32_t t = 0; t < 96; ++t) CHECK(out[96 * b + t] == 1024 + 1000 * b + 95 - t);
  }
}

TEST_CASE("ptx machine: copies of a thread land at the wait that covers them") {
  const std::string begin = ".shared .align 16 .b8 tile[512]; mov.u32 %r2, tile; mad.lo.s32 %r3, %r1, 4, %r2;";
  const std::string copy = "cp.async.ca.shared.global [%r3], [%rd5], 4, %r4; cp.async.commit_group;";
  const std::string read = " ld.shared.u32 %r5, [%r3]; st.global.u32 [%rd4], %r5; ret;";
  std::vector<std::uint32_t> in(32, 42);
  CHECK(words_of(begin + "mov.u32 %r4, 4;" + copy + "cp.async.wait_group 0;" + read, in)[3] == 42);
  CHECK(words_of(begin + "mov.u32 %r4, 4;" + copy + "cp.async.wait_group 1;" + read, in)[3] == 0xffffffff);
  CHECK(has(error_of(begin + "cp.async.cg.shared.global [%r3], [%rd5], 8; ret;"), "a copy of 8 bytes"));
  CHECK(words_of(begin + "mov.u32 %r4, 0;" + copy + "cp.async.wait_group 0;" + read, in)[3] == 0);  // zeros, unread
}

TEST_CASE("ptx machine: one warp waits at an mbarrier for another, twice") {
  // warp 1 writes and arrives; warp 0 waits for the phase, reads, and lets it write again
  const std::string text = text_of(R"(
    .shared .align 8 .b8 full[8];
    .shared .align 8 .b8 empty[8];
    .shared .align 4 .b8 word[4];
    mov.u32 %r2, full; mov.u32 %r3, empty; mov.u32 %r7, 0;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra $ready;
    mbarrier.init.shared::cta.b64 [%r2], 32;
    mbarrier.init.shared::cta.b64 [%r3], 32;
    $ready:
    bar.sync 0;
    setp.lt.u32 %p2, %r1, 32;
    @%p2 bra $reader;
    st.shared.u32 [word], 5;
    mbarrier.arrive.shared::cta.b64 _, [%r2];
    { .reg .pred complete; again: mbarrier.try_wait.parity.shared::cta.b64 complete, [%r3], 0; @!complete bra again; }
    st.shared.u32 [word], 70;
    mbarrier.arrive.shared::cta.b64 _, [%r2];
    bra.uni $end;
    $reader:
    { .reg .pred complete; again: mbarrier.try_wait.parity.shared::cta.b64 complete, [%r2], 0; @!complete bra again; }
    ld.shared.u32 %r4, [word];
    mbarrier.arrive.shared::cta.b64 _, [%r3];
    { .reg .pred complete; again: mbarrier.try_wait.parity.shared::cta.b64 complete, [%r2], 1; @!complete bra again; }
    ld.shared.u32 %r5, [word];
    add.s32 %r7, %r4, %r5;
    $end:
    st.global.u32 [%rd4], %r7;
    ret;)");
  std::vector<std::uint32_t> out(64, 1);
  run_text(text, out.data(), out.data(), {.threads = 64});
  CHECK(out[0] == 75);
  CHECK(out[31] == 75);
  CHECK(out[40] == 0);
}

TEST_CASE("ptx machine: mma.sync by hand") {
  // A[r][k] = r + 1 where k == r % 8, B[k][n] = k + 10 n: D[r][n] = (r + 1) (r % 8 + 10 n) + C, C = 0.5
  const std::string text = text_of(R"(
    ld.global.u32 %r10, [%rd5]; ld.global.u32 %r11, [%rd5+128]; ld.global.u32 %r12, [%rd5+256];
    mov.f32 %f1, 0f3F000000;
    mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f2,%f3,%f4,%f5},{%r10,%r11},{%r12},{%f1,%f1,%f1,%f1};
    mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd2, %rd6;
    st.global.v4.f32 [%rd6], {%f2,%f3,%f4,%f5};
    ret;)");
  const auto bf16 = [](float v) { return bits(v) >> 16; };  // these are whole numbers below 256
  std::vector<std::uint32_t> in(96);
  for (std::uint32_t l = 0; l < 32; ++l) {
    const std::uint32_t g = l / 4, t = l % 4;
    const auto a = [&](std::uint32_t r, std::uint32_t k) { return k == r % 8 ? static_cast<float>(r + 1) : 0.0f; };
    const auto b = [&](std::uint32_t k, std::uint32_t n) { return static_cast<float>(k + 10 * n); };
    in[l] = bf16(a(g, 2 * t)) | bf16(a(g, 2 * t + 1)) << 16;
    in[32 + l] = bf16(a(g + 8, 2 * t)) | bf16(a(g + 8, 2 * t + 1)) << 16;
    in[64 + l] = bf16(b(2 * t, g)) | bf16(b(2 * t + 1, g)) << 16;
  }
  std::vector<float> out(128);
  run_text(text, in.data(), out.data());
  for (std::uint32_t l = 0; l < 32; ++l)
    for (std::uint32_t r = 0; r < 4; ++r) {
      const std::uint32_t row = l / 4 + 8 * (r / 2), column = 2 * (l % 4) + r % 2;
      CHECK(out[4 * l + r] == static_cast<float>((row + 1) * (row % 8 + 10 * column)) + 0.5f);
    }
}

TEST_CASE("ptx machine: mistakes are reported with block, thread and line") {
  const Launch two{.blocks = 1, .threads = 64};
  CHECK(has(error_of("st.shared.u32 [%r1], %r1; ret;"), "of shared memory, behind its end"));
  CHECK(has(error_of("ld.global.u32 %r2, [%rd1+2]; ret;"), "misaligned"));
  CHECK(has(error_of("mov.u64 %rd1, 16; ld.global.u32 %r2, [%rd1]; ret;"), "device memory, where nothing is"));
  const std::string outside = error_of(
      "ld.global.u32 %r2, [%rd5]; ret;", {}, {.in_device_memory = [](const void*, std::size_t) { return false; }});
  CHECK(has(outside, "outside of every allocation"));
  CHECK(has(outside, "k: block (0,0,0) thread (0,0,0)"));
  CHECK(has(outside, "PTX line 18"));
  CHECK(has(error_of("setp.eq.u32 %p1, %r1, 3; @%p1 trap; ret;"), "thread (3,0,0)"));
  CHECK(has(error_of("frobnicate.u32 %r1, %r2; ret;"), "does not know: 'frobnicate.u32"));
  CHECK(has(error_of("add.s64 %rd6, %rd5, %r1; ret;"), "another width"));
  CHECK(has(error_of("mov.u32 %r2, nothing; ret;"), "unknown name nothing"));
  CHECK(has(error_of("bra $nowhere;"), "unknown label"));
  CHECK(has(error_of("mov.u32 %r2, 1;"), "past the kernel's end"));
  // half of a warp at a shuffle of all, the others at the block's barrier
  const std::string stuck = error_of(
      "setp.lt.u32 %p1, %r1, 16; @%p1 bra $a; bar.sync 0; $a: shfl.sync.idx.b32 %r2|%p2, %r1, 0, 31, -1; ret;");
  CHECK(has(stuck, "threads wait for each other: warp 0: 16 at bar.sync"));
  CHECK(has(stuck, "16 at a collective"));
  CHECK(
      has(error_of("setp.lt.u32 %p1, %r1, 16; @%p1 shfl.sync.idx.b32 %r2|%p2, %r1, 20, 31, 65535; ret;"),
          "a shuffle reads lane 20, which takes no part"));
  const std::string short_of_one = error_of(
      R"(.shared .align 8 .b8 full[8]; mov.u32 %r2, full; setp.ne.u32 %p1, %r1, 0; @%p1 bra $w;
      mbarrier.init.shared::cta.b64 [%r2], 65; $w: bar.sync 0; mbarrier.arrive.shared::cta.b64 _, [%r2];
      { .reg .pred c; again: mbarrier.try_wait.parity.shared::cta.b64 c, [%r2], 0; @!c bra again; } ret;)",
      two);
  CHECK(has(short_of_one, "64 at an mbarrier") == false);
  CHECK(has(short_of_one, "warp 1: 32 at an mbarrier"));
}

// A kernel that takes its map by value and lets the compiler copy it would copy from where the hardware does not read.
TEST_CASE("ptx machine: a tensor map lies in memory that the unit of tensor copies reads") {
  const auto error = [](const std::string& address_of_map) {
    return error_of(
        ".shared .align 128 .b8 tile[1024]; .shared .align 8 .b8 full[8]; .local .align 128 .b8 map[128];" +
        address_of_map +
        R"(mov.u32 %r2, tile; mov.u32 %r3, full; mov.u32 %r4, 0;
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
          [%r2], [%rd6, {%r4, %r4}], [%r3]; ret;)");
  };
  const std::string elsewhere = "a tensor map in local or shared memory";
  CHECK(has(error("mov.u64 %rd6, map; cvta.local.u64 %rd6, %rd6;"), elsewhere));
  CHECK(has(error("mov.u64 %rd6, tile; cvta.shared.u64 %rd6, %rd6;"), elsewhere));
  CHECK(has(error("add.s64 %rd6, %rd1, 63; and.b64 %rd6, %rd6, -64;"), "not a tensor map"));  // device memory is read
}

TEST_CASE("ptx machine: sums of wgmma may be read behind the wait that covers them") {
  const Launch warpgroup{.blocks = 1, .threads = 128};
  const std::string begin =
      ".shared .align 128 .b8 tile[4096]; mov.u64 %rd6, 0; mov.f32 %f1, 0f00000000;"
      "mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1; wgmma.fence.sync.aligned;";
  const std::string product =
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd6, %rd6, 1, 1, 1, 0, 0;";
  const std::string commit = "wgmma.commit_group.sync.aligned;", wait = "wgmma.wait_group.sync.aligned 0;";
  const std::string read = "add.f32 %f6, %f5, %f5; ret;", move = "mov.f32 %f5, %f1;";
  const std::string early = "reads a sum of a product that no wait has covered";
  CHECK(error_of(begin + product + product + commit + wait + move + read, warpgroup) == "no error");
  CHECK(has(error_of(begin + product + commit + move + read, warpgroup), early));
  CHECK(has(error_of(begin + product + wait + move + read, warpgroup), early));  // nothing was committed
  const std::string one_still = "wgmma.wait_group.sync.aligned 1;";
  CHECK(has(error_of(begin + product + commit + one_still + move + read, warpgroup), early));
  CHECK(error_of(begin + product + commit + "mov.f32 %f5, %f7;" + read, warpgroup) == "no error");  // another register
  const auto scaled = [&](const char* scales) {
    return begin + "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd6, %rd6, " + scales +
           ", 0, 0;" + commit + wait + move + read;
  };
  CHECK(error_of(scaled("0, 1, 1"), warpgroup) == "no error");
  CHECK(has(error_of(scaled("2, 1, 1"), warpgroup), "wgmma with scales other than 1"));
  CHECK(has(error_of(scaled("1, -1, 1"), warpgroup), "wgmma with scales other than 1"));
}

TEST_CASE("ptx machine: wgmma takes A from registers as mma does, and B transposed") {
  // Small whole numbers, exact in bf16 and in the sums.
  const auto a = [](int row, int k) { return static_cast<float>((row * 5 + k * 3 + row * k) % 13 - 6); };
  const auto b = [](int k, int n) { return static_cast<float>((k * 7 + n * 2 + k * n) % 11 - 5); };
  const auto pair = [](float low, float high) { return bits(low) >> 16 | (bits(high) & 0xffff0000u); };
  // Words 0 to 63: eight neighbours of a row of B, the next row 16 bytes behind. Then of each thread registers 0 to 3.
  std::vector<std::uint32_t> in(5 * 128, 0);
  for (int k = 0; k < 16; ++k)
    for (int n = 0; n < 8; n += 2) in[static_cast<std::size_t>(k * 4 + n / 2)] = pair(b(k, n), b(k, n + 1));
  for (int thread = 0; thread < 128; ++thread)
    for (int r = 0; r < 4; ++r) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + r % 2 * 8, k = thread % 4 * 2 + r / 2 * 8;
      in[static_cast<std::size_t>((1 + r) * 128 + thread)] = pair(a(row, k), a(row, k + 1));
    }
  for (int r = 0; r < 4; ++r) {
    const std::vector<std::uint32_t> out = words_of(
        R"(.shared .align 128 .b8 tile[512]; cvt.u32.u64 %r2, %rd3; ld.global.u32 %r3, [%rd5]; mov.u32 %r4, tile;
        add.u32 %r4, %r4, %r2; st.shared.u32 [%r4], %r3; bar.sync 0; mov.u64 %rd6, 524288;
        ld.global.u32 %r10, [%rd5+512]; ld.global.u32 %r11, [%rd5+1024]; ld.global.u32 %r12, [%rd5+1536];
        ld.global.u32 %r13, [%rd5+2048]; mov.f32 %f1, 0f3f800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, {%r10,%r11,%r12,%r13}, %rd6, 1, 1, 1, 1;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; st.global.f32 [%rd4], %f)" +
            std::to_string(r + 1) + "; ret;",
        in, {.blocks = 1, .threads = 128});
    for (int thread = 0; thread < 128; ++thread) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + r / 2 * 8, column = thread % 4 * 2 + r % 2;
      float sum = 1;
      for (int k = 0; k < 16; ++k) sum += a(row, k) * b(k, column);
      CHECK(std::bit_cast<float>(out[static_cast<std::size_t>(thread)]) == sum);
    }
  }
}

TEST_CASE("ptx machine: a text that is no PTX is refused with its line") {
  const auto error = [](const std::string& text) {
    try {
      Module::load(text);
    } catch (const PtxError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(error(".version 9.0\nhello\n") == "ptx: line 2: not a directive");
  CHECK(has(error(".visible .entry k()\n{ ret; "), "a brace that nothing closes"));
  CHECK(has(error(".func f()\n{ ret; }"), "functions are not known"));
}

}  // namespace
}  // namespace avid::test
