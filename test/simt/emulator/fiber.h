// Contexts of emulated threads: a stack each, and a switch of a few nanoseconds.
#pragma once

#include <cstddef>

namespace simt::emulator {

// Saves the running context's stack pointer in *from and goes on where `to` was saved.
extern "C" void simt_switch_context(void** from, void* to);

constexpr size_t STACK_BYTES = 128 << 10;

// A stack with a guard below it; lives as long as the program.
unsigned char* createStack();

// The stack pointer with which a switch enters `function`, which must not return. Stacks of different `number` begin at
// different distances from a page's end, so that they do not meet in the same lines of a cache.
void* prepareStack(unsigned char* stack, int number, void (*function)());

}  // namespace simt::emulator
