// Contexts of emulated threads: a stack each, and a switch of a few nanoseconds.
#pragma once

#include <cstddef>

namespace simt::emulator {

// Saves the running context's stack pointer in *from and goes on where `to` was saved.
extern "C" void simt_switch_context(void** from, void* to);

constexpr size_t STACK_BYTES = 64 << 10;

// A stack with an unmapped page below it; lives as long as the program.
unsigned char* createStack();

// The stack pointer with which a switch enters `function`, which must not return.
void* prepareStack(unsigned char* stack, void (*function)());

}  // namespace simt::emulator
