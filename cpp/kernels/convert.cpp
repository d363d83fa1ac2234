#include "kernels/convert.h"

#define RANKONE_KERNEL "kernels/convert.inl"
#include "core/foreach_isa.h"

namespace rankone {

void widenAll(const void* from, DType dtype, int64_t at, int64_t n, float* to, const CancelFlag* cancel) {
  RANKONE_PICK(widenAll)(from, dtype, at, n, to, cancel);
}

void narrowAll(const float* from, int64_t n, void* to, DType dtype, const CancelFlag* cancel) {
  RANKONE_PICK(narrowAll)(from, n, to, dtype, cancel);
}

}  // namespace rankone
