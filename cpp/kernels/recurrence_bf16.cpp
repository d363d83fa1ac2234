#include <memory>
#include <type_traits>

#include "core/error.h"
#include "kernels/recurrence.h"

#define RANKONE_KERNEL_BF16 "kernels/recurrence_bf16.inl"
#include "core/foreach_isa.h"

namespace rankone {

void recurrenceChunksBf16(const RecurrenceForward& args) {
#if defined(__x86_64__)
  if (hasBf16Dot()) return avx512bf16::recurrenceChunksBf16(args);
#endif
  (void)args;
  fail(ErrorKind::Range, "compute: expected 'f32' without a bf16 dot product, got 'bf16'");
}

}  // namespace rankone
