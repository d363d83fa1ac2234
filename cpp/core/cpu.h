// Which instruction sets this machine has, and which one the kernels use.
#pragma once

namespace rankone {

enum class Isa { Baseline, Avx2, Avx512 };

constexpr int kIsaCount = 3;

const char* isaName(Isa isa);  // "baseline" (on arm64 "neon"), "avx2", "avx512"
bool isaAvailable(Isa isa);    // compiled in and supported by processor and operating system

// The level in use: the widest available one, or the one that RANKONE_ISA names. Decided once, at the first call.
// An unknown or unavailable name in RANKONE_ISA throws Error.
Isa activeIsa();

}  // namespace rankone
