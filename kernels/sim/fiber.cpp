// kernels/sim/fiber.cpp -- stacks with guard pages, and the context switch
#include "kernels/sim/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#if !AVID_SIM_UCONTEXT && defined(__x86_64__)
// The callee-saved registers of the System V ABI go on the old stack, those of the new one come off it. The
// floating-point control words are not switched: kernels do not change them.
asm(R"(
.text
.globl avid_sim_switch
.type avid_sim_switch,@function
avid_sim_switch:
  .cfi_startproc
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .cfi_endproc
.size avid_sim_switch,.-avid_sim_switch
)");
#elif !AVID_SIM_UCONTEXT && defined(__aarch64__)
asm(R"(
.text
.globl avid_sim_switch
.type avid_sim_switch,%function
avid_sim_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8,  d9,  [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8,  d9,  [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size avid_sim_switch,.-avid_sim_switch
)");
#endif

namespace avid::kernels::simulator {
namespace {

// Sanitized frames are several times larger. Pages are only backed once touched.
constexpr std::size_t kStackBytes = AVID_SIM_ASAN ? std::size_t{512} << 10 : std::size_t{128} << 10;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

FiberPool::~FiberPool() {
  for (const auto& fiber : fibers_) {
#if AVID_SIM_ASAN
    __asan_unpoison_memory_region(fiber->stack, fiber->stack_bytes);
#endif
    munmap(fiber->stack - page_bytes(), fiber->stack_bytes + page_bytes());
  }
}

void FiberPool::add() {
  auto fiber = std::make_unique<Fiber>();
  void* block = mmap(
      nullptr, kStackBytes + page_bytes(), PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  mprotect(block, page_bytes(), PROT_NONE);
  fiber->stack = static_cast<char*>(block) + page_bytes();
  fiber->stack_bytes = kStackBytes;
  fiber->colour_bytes = static_cast<std::uint32_t>(fibers_.size() * 11 % 64) * 64;
  prepare(*fiber);
  idle_.push_back(fiber.get());
  fibers_.push_back(std::move(fiber));
}

void FiberPool::prepare(Fiber& fiber) {
#if AVID_SIM_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.stack_bytes - fiber.colour_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body_, 0);
#elif defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes - fiber.colour_bytes);
  *--top = nullptr;  // the body's return address: backtraces end here
  *--top = reinterpret_cast<void*>(body_);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes - fiber.colour_bytes - 160);
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(body_);  // x30, where `ret` goes
  fiber.stack_pointer = top;
#endif
  fiber.fake_stack = nullptr;
#if AVID_SIM_ASAN
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
}

void FiberPool::reset() {
  idle_.clear();
  for (const auto& fiber : fibers_) {
    prepare(*fiber);
    idle_.push_back(fiber.get());
  }
}

void FiberPool::entered() {
#if AVID_SIM_ASAN
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (previous_ == &main_) {
    main_.stack = static_cast<char*>(const_cast<void*>(bottom));
    main_.stack_bytes = bytes;
  }
#endif
}

}  // namespace avid::kernels::simulator
