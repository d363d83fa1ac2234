#include "kernels/convert.h"

#define RANKONE_KERNEL "kernels/convert.inl"
#include "core/foreach_isa.h"

namespace rankone {

void narrowAll(const float* from, int64_t n, void* to, DType dtype, const CancelFlag* cancel) {
  RANKONE_PICK(narrowAll)(from, n, to, dtype, cancel);
}

}  // namespace rankone
