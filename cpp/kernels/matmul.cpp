#include "kernels/matmul.h"

#include "kernels/split.h"

#define RANKONE_KERNEL "kernels/matmul.inl"
#include "core/foreach_isa.h"

namespace rankone {

void matmul(const MatmulArgs& args) { RANKONE_PICK(matmul)(args); }

}  // namespace rankone
