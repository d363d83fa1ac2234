#include "kernels/rand_lora.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/rand_lora.inl"
#include "core/foreach_isa.h"

namespace rankone {

void scaleColumns(const ScaleColumnsArgs& args) { RANKONE_PICK(scaleColumns)(args); }
void diagonalGradients(const DiagonalGradientsArgs& args) { RANKONE_PICK(diagonalGradients)(args); }

}  // namespace rankone
