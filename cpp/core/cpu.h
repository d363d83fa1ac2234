// Which instruction sets this machine has, and which one the kernels use.
#pragma once

namespace rankone {

// In rising order. Avx512Bf16 runs the kernels of Avx512 and has the dot products of bf16 and int8 (VNNI) besides.
enum class Isa { Baseline, Avx2, Avx512, Avx512Bf16 };

constexpr int kIsaCount = 4;

const char* isaName(Isa isa);  // "baseline" (on arm64 "neon"), "avx2", "avx512", "avx512bf16"
bool isaAvailable(Isa isa);    // compiled in and supported by processor and operating system

// The level in use: the widest available one, or the one that RANKONE_ISA names. Decided once, at the first call.
// An unknown or unavailable name in RANKONE_ISA throws Error.
Isa activeIsa();

// Whether `compute: 'bf16'` has its dot product, and `compute: 'int8'` its own.
inline bool hasBf16Dot() { return activeIsa() == Isa::Avx512Bf16; }
inline bool hasInt8Dot() { return activeIsa() == Isa::Avx512Bf16; }

}  // namespace rankone
