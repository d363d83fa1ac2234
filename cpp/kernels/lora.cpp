#include "kernels/lora.h"

#include <algorithm>

#include "kernels/lora_plan.h"
#include "kernels/matmul.h"
#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/lora.inl"
#define RANKONE_KERNEL_BF16 "kernels/lora_bf16.inl"
#include "core/foreach_isa.h"

namespace rankone {

void loraForward(const LoraArgs& args, void* y, DType yDType) {
#if defined(__x86_64__)
  if ((args.bf16 && hasBf16Dot()) || (args.int8 && hasInt8Dot())) return avx512bf16::loraForward(args, y, yDType);
#endif
  RANKONE_PICK(loraForward)(args, y, yDType);
}

}  // namespace rankone
