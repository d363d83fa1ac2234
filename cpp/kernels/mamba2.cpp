#include "kernels/mamba2.h"

#define RANKONE_KERNEL "kernels/mamba2.inl"
#include "core/foreach_isa.h"

namespace rankone {

void mamba2Prepare(const Mamba2Args& args, float* step, float* g) { RANKONE_PICK(mamba2Prepare)(args, step, g); }
void mamba2Skip(const Mamba2Args& args, const float* o, void* y, DType yDType) {
  RANKONE_PICK(mamba2Skip)(args, o, y, yDType);
}
void mamba2Gradients(const Mamba2Args& args, const Mamba2Gradients& grads) {
  RANKONE_PICK(mamba2Gradients)(args, grads);
}

}  // namespace rankone
