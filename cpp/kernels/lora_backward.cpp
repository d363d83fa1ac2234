#include <algorithm>

#include "kernels/lora_groups.h"
#include "kernels/lora_plan.h"
#include "kernels/matmul.h"
#include "kernels/row_sum.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/lora_backward.inl"
#define RANKONE_KERNEL_BF16 "kernels/lora_backward_bf16.inl"
#include "core/foreach_isa.h"

namespace rankone {

void loraBackward(const LoraArgs& args, const LoraGradients& gradients) {
#if defined(__x86_64__)
  if (args.bf16 && hasBf16Dot()) return avx512bf16::loraBackward(args, gradients);
#endif
  RANKONE_PICK(loraBackward)(args, gradients);
}

}  // namespace rankone
