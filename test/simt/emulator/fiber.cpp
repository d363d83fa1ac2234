#include "fiber.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

// What the calling convention has a function preserve, and nothing else. Kernels do not change the floating-point mode.
#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch_context
.type simt_switch_context, @function
simt_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size simt_switch_context, .-simt_switch_context
.section .note.GNU-stack, "", @progbits
.text
)");
constexpr size_t SAVED_WORDS = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl simt_switch_context
.type simt_switch_context, %function
simt_switch_context:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
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
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch_context, .-simt_switch_context
)");
#else
#error "simt: the emulator switches contexts on x86-64 and arm64 only"
#endif

namespace simt::emulator {

unsigned char* createStack() {
  constexpr size_t GUARD = 64 << 10;  // a page, however large
  // Stacks lie an odd number of pages apart: of distances that are powers of two a TLB holds a few only.
  constexpr size_t ODD = 4 << 10;
  void* memory = mmap(nullptr, GUARD + STACK_BYTES + ODD, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("simt: no memory for the stacks of emulated threads");
    std::abort();
  }
  // The system limits the number of mappings, which guards set apart: of tens of thousands of stacks the last go
  // without.
  static std::atomic<int> count{0};
  if (count++ < 8192) (void)mprotect(memory, GUARD, PROT_NONE);
  return static_cast<unsigned char*>(memory) + GUARD;
}

void* prepareStack(unsigned char* stack, int number, void (*function)()) {
  void** top = reinterpret_cast<void**>(stack + STACK_BYTES - number * 0);
#if defined(__x86_64__)
  // As after a call: 8 below a multiple of 16.
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(function);
  for (size_t i = 0; i < SAVED_WORDS; ++i) *--top = nullptr;
#else
  top -= 20;
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(function);  // x30, the return address
#endif
  return top;
}

}  // namespace simt::emulator
