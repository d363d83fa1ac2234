// Compiles one kernel file once per instruction set.
//
//   #define RANKONE_KERNEL "kernels/matmul.inl"
//   #include "core/foreach_isa.h"
//
// Each copy lands in its own namespace rankone::{baseline,avx2,avx512}; a kernel that defines RANKONE_KERNEL_BF16 gets
// one more, avx512bf16, compiled with RANKONE_BF16_DOT; its caller names it where hasBf16Dot() says so.
// Every header that the kernel needs must have been included before, outside of these target regions: inline functions
// of the standard library compiled inside one would carry its instructions into code that runs everywhere.
// RANKONE_PICK(f) then names the copy in use. Where RANKONE_ONLY_LEVEL is defined (a test program of one instruction
// set, sooner compiled), the copy of that level is the only one. A kernel of RANKONE_KERNEL_BF16 alone has no other
// copy, and its caller none to pick off x86-64.
//
// What several kernels include is inline or a template in that namespace, so that the linker keeps one copy of the code
// (half a megabyte of it). A namespace without a name is for what one kernel has to itself, and for every name that
// another one gives to something else.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include "core/cpu.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "core/workspace.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define RANKONE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define RANKONE_TARGET(t) RANKONE_PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
#define RANKONE_TARGET_END RANKONE_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define RANKONE_TARGET(t) RANKONE_PRAGMA(GCC push_options) RANKONE_PRAGMA(GCC target(t))
#define RANKONE_TARGET_END RANKONE_PRAGMA(GCC pop_options)
#else
#error "rankone's kernels need gcc or clang (on Windows: clang or mingw)"
#endif

#if defined(RANKONE_ONLY_LEVEL)
#define RANKONE_HAS_LEVEL(level) (RANKONE_ONLY_LEVEL == level)
#else
#define RANKONE_HAS_LEVEL(level) 1
#endif

#if defined(RANKONE_KERNEL) && RANKONE_HAS_LEVEL(0)
#define RANKONE_ISA_NS baseline
#define RANKONE_LEVEL 0
#include "core/simd.inl"
#include RANKONE_KERNEL
#undef RANKONE_ISA_NS
#undef RANKONE_LEVEL
#endif

#if defined(__x86_64__)

#if defined(RANKONE_KERNEL) && RANKONE_HAS_LEVEL(1)
#define RANKONE_ISA_NS avx2
#define RANKONE_LEVEL 1
RANKONE_TARGET("avx2,fma,f16c")
#include "core/simd.inl"
#include RANKONE_KERNEL
RANKONE_TARGET_END
#undef RANKONE_ISA_NS
#undef RANKONE_LEVEL
#endif

#if defined(RANKONE_KERNEL) && RANKONE_HAS_LEVEL(2)
#define RANKONE_ISA_NS avx512
#define RANKONE_LEVEL 2
RANKONE_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include "core/simd.inl"
#include RANKONE_KERNEL
RANKONE_TARGET_END
#undef RANKONE_ISA_NS
#undef RANKONE_LEVEL
#endif

#if defined(RANKONE_KERNEL_BF16)
#define RANKONE_ISA_NS avx512bf16
#define RANKONE_LEVEL 2
#define RANKONE_BF16_DOT 1
RANKONE_TARGET("avx512bf16,avx512vnni,avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include "core/simd.inl"
#include RANKONE_KERNEL_BF16
RANKONE_TARGET_END
#undef RANKONE_ISA_NS
#undef RANKONE_LEVEL
#undef RANKONE_BF16_DOT
#undef RANKONE_KERNEL_BF16
#endif

#if RANKONE_HAS_LEVEL(0) && RANKONE_HAS_LEVEL(1)
#define RANKONE_PICK(f)                                                    \
  (::rankone::activeIsa() >= ::rankone::Isa::Avx512 ? ::rankone::avx512::f \
   : ::rankone::activeIsa() == ::rankone::Isa::Avx2 ? ::rankone::avx2::f   \
                                                    : ::rankone::baseline::f)
#elif RANKONE_HAS_LEVEL(2)
#define RANKONE_PICK(f) (::rankone::avx512::f)
#elif RANKONE_HAS_LEVEL(1)
#define RANKONE_PICK(f) (::rankone::avx2::f)
#endif
#endif

#if !defined(RANKONE_PICK)
#define RANKONE_PICK(f) (::rankone::baseline::f)
#endif
#undef RANKONE_HAS_LEVEL

#undef RANKONE_KERNEL
