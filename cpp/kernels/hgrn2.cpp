#include "kernels/hgrn2.h"

#define RANKONE_KERNEL "kernels/hgrn2.inl"
#include "core/foreach_isa.h"

namespace rankone {

void hgrn2AddGateGradient(int64_t n, const FloatView& g, const float* dk, float* dg, const CancelFlag* cancel) {
  RANKONE_PICK(hgrn2AddGateGradient)(n, g, dk, dg, cancel);
}

}  // namespace rankone
