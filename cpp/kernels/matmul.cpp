#include "kernels/matmul.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/matmul.inl"
#define RANKONE_KERNEL_BF16 "kernels/matmul_bf16.inl"
#include "core/foreach_isa.h"

namespace rankone {

void matmul(const MatmulArgs& args) {
#if defined(__x86_64__)
  if (args.bf16 && hasBf16Dot()) return avx512bf16::matmul(args);
#endif
  RANKONE_PICK(matmul)(args);
}

}  // namespace rankone
